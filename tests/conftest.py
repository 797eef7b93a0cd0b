"""Shared fixtures: an engine that runs in memory, the app around it, and a client that speaks to it without a socket."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import io
import os
from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import httpx
import hypothesis
import pytest
from fastapi import FastAPI
from PIL import Image, UnidentifiedImageError

from app.engine.errors import (
    DeadlineExceededError,
    InputNotSupportedError,
    ItemError,
    NotReadyError,
    OverloadedError,
    SpaceConflictError,
    TextTooLongError,
    UndecodableImageError,
    UnknownAttributeError,
    UnknownDimensionsError,
    UnknownModelError,
    UnsupportedImageTypeError,
    UnsupportedModalityError,
)
from app.engine.items import (
    Agreement,
    AttributeAnswer,
    Candidate,
    Classification,
    Embedding,
    EmbeddingModality,
    EmbeddingReply,
    HeldVersion,
    Item,
    Modality,
    ModelDescription,
    ModelRef,
    Reply,
    Timing,
    VersionDescription,
)
from app.main import create_app
from app.settings import Settings
from tests.parallel import pytest_xdist_make_scheduler

__all__ = ["pytest_xdist_make_scheduler"]

# An example's time by the clock is what the machine's other work leaves of it: a test that is about time measures it itself.
hypothesis.settings.register_profile("by count alone", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("by count alone")


def pytest_collection_finish() -> None:
    """What has been imported by now lives to the end. Millions of objects, TensorFlow's above all: every collection of garbage
    would look through them again."""
    gc.freeze()


COLOURS = ("Black", "White", "Red", "Green", "Blue")
_RGB = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255))
FASHION = "fashion"
DIGITS = "mnist"
SPACE_ID = "fashion-0123456789abcdef"
DIMENSIONS = (8, 16)


class FakeEngine:
    """A small engine that really computes: `baseColour` is the colour nearest to the photo's mean (or named in the title),
    `titleLength` says whether the title is long, and an embedding hashes what it is given. `mnist` reads photos alone.
    """

    def __init__(self) -> None:
        self.ready = True
        self.is_closed = False
        self.delay_s = 0.0
        self.overloads_left = 0
        self.overloaded = False
        self.deadlines_s: list[float | None] = []
        self.may_hold_loop: list[bool] = []
        """Of every call, in order."""
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.started = 0
        self.max_text_chars = 200

    async def classify(
        self,
        items: Sequence[Item],
        *,
        model: str | None,
        version: str | None,
        attributes: Sequence[str] | None,
        top_k: int,
        precision: float,
        timeout_s: float | None,
        may_hold_loop: bool = False,
    ) -> Reply[Classification]:
        self.may_hold_loop.append(may_hold_loop)
        reference = self._reference(model, version)
        for place, attribute in enumerate(attributes or ()):
            if attribute not in ("baseColour", "titleLength"):
                raise UnknownAttributeError("The model has no such attribute.", field=f"attributes/{place}")
        if items:
            await self._work(timeout_s)
        results: list[Classification | ItemError] = []
        for item in items:
            try:
                results.append(self._classify_one(await _with_photo(item), reference, attributes, top_k, precision))
            except ItemError as error:
                results.append(error)
        return Reply(reference, results, Timing(decode_ms=1.5, queue_ms=0.5, model_ms=2.0))

    async def embed(
        self,
        items: Sequence[Item],
        *,
        model: str | None,
        version: str | None,
        modality: EmbeddingModality | None,
        dimensions: int | None,
        space_id: str | None,
        timeout_s: float | None,
        may_hold_loop: bool = False,
    ) -> EmbeddingReply:
        self.may_hold_loop.append(may_hold_loop)
        reference = self._reference(model, version)
        if space_id not in (None, SPACE_ID):
            raise SpaceConflictError("No kept version serves this space.", field="space")
        if modality == "text" and reference.name != FASHION:
            raise UnsupportedModalityError("This model has no text input.", field="modality")
        if dimensions not in (None, *DIMENSIONS):
            raise UnknownDimensionsError("The model offers 8 and 16.", field="dimensions")
        if items:
            await self._work(timeout_s)
        length = dimensions or DIMENSIONS[-1]
        results: list[Embedding | ItemError] = []
        for item in items:
            try:
                item = await _with_photo(item)
                _decode(item.image)
            except ItemError as error:
                results.append(error)
                continue
            inputs: tuple[Modality, ...] = _inputs(item)
            if modality in ("image", "text"):
                inputs = (modality,)
            seed = (item.image or b"" if "image" in inputs else b"") + (item.text or "" if "text" in inputs else "").encode()
            digest = hashlib.sha512(seed).digest()
            vector = [digest[i] - 127.5 for i in range(length)]
            norm = sum(x * x for x in vector) ** 0.5
            results.append(Embedding(inputs, array("f", [x / norm for x in vector])))
        return EmbeddingReply(reference, results, Timing(), space_id=SPACE_ID, dimensions=length)

    @contextmanager
    def hold(self, *, model: str | None, version: str | None, space_id: str | None) -> Iterator[HeldVersion]:
        if space_id not in (None, SPACE_ID):
            raise SpaceConflictError("No kept version serves this space.", field="space")
        yield HeldVersion(self._reference(model, version), lambda: True)

    def is_overloaded(self) -> bool:
        return self.overloaded

    def overload(self) -> OverloadedError | None:
        return OverloadedError("More comes than can be answered.", retry_after_s=2) if self.overloaded else None

    def models(self) -> Sequence[ModelDescription]:
        return [self.describe(FASHION), self.describe(DIGITS)]

    def describe(self, name: str) -> ModelDescription:
        if name not in (FASHION, DIGITS):
            raise UnknownModelError("No model of this name is served; GET /v1/models lists them.", field="model")
        is_fashion = name == FASHION
        return ModelDescription(
            name=name,
            is_default=is_fashion,
            version="1",
            versions=(
                VersionDescription("1", "ready", True),
                VersionDescription("2", "refused", False, "wrong hash of labels.json"),
            ),
            inputs=("image", "text") if is_fashion else ("image",),
            attributes={"baseColour": COLOURS, "titleLength": ("long", "short")} if is_fashion else {"baseColour": COLOURS},
            hierarchy=("titleLength", "baseColour") if is_fashion else (),
            hierarchy_paths=(("long", "Red"), ("short", "Blue")) if is_fashion else (),
            space_id=SPACE_ID,
            dimensions=DIMENSIONS,
            limits={"max_text_chars": self.max_text_chars},
            quality={"baseColour": {"accuracy": 0.9}},
        )

    def look_for_models(self) -> None: ...

    def is_ready(self) -> bool:
        return self.ready

    async def close(self) -> None:
        self.is_closed = True

    def _reference(self, model: str | None, version: str | None) -> ModelRef:
        if not self.ready:
            raise NotReadyError("The models are loading.", retry_after_s=2)
        name = self.describe(model or FASHION).name
        if version not in (None, "1"):
            raise UnknownModelError("No such version is served.", field="version")
        return ModelRef(name, "1")

    async def _work(self, timeout_s: float | None) -> None:
        self.deadlines_s.append(timeout_s)
        if self.overloads_left:
            self.overloads_left -= 1
            raise OverloadedError("The queue is full; send again after the time in Retry-After.", retry_after_s=3)
        self.started += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async with asyncio.timeout(timeout_s):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
        except TimeoutError:
            raise DeadlineExceededError("The deadline passed before the answer was ready.") from None
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def _classify_one(
        self, item: Item, reference: ModelRef, attributes: Sequence[str] | None, top_k: int, precision: float
    ) -> Classification:
        inputs = _inputs(item)
        if reference.name == DIGITS:
            if item.image is None:
                raise InputNotSupportedError("This model reads photos alone; send an image.", field="text")
            inputs = ("image",)
        if item.text is not None and len(item.text) > self.max_text_chars:
            raise TextTooLongError(f"The text may have at most {self.max_text_chars} characters.", field="text")
        mean = _decode(item.image)
        answers: dict[str, AttributeAnswer] = {}
        if mean is None:
            text = (item.text or "").lower()
            weights = [0.9 if colour.lower() in text else 0.1 for colour in COLOURS]
        else:
            weights = [1 / (1 + sum((a - b) ** 2 for a, b in zip(mean, rgb, strict=True))) for rgb in _RGB]
        total = sum(weights)
        ranked = sorted(
            (Candidate(colour, weight / total) for colour, weight in zip(COLOURS, weights, strict=True)),
            key=lambda candidate: -candidate.confidence,
        )
        best = ranked[0]
        decision = "accept" if best.confidence >= precision else "review"
        answers["baseColour"] = AttributeAnswer(best.label, best.confidence, decision, tuple(ranked[:top_k]))  # type: ignore[arg-type]
        if "text" in inputs:
            label = "long" if len(item.text or "") > 20 else "short"
            answers["titleLength"] = AttributeAnswer(label, 1.0, "accept", (Candidate(label, 1.0),))
        else:
            answers["titleLength"] = AttributeAnswer(None, 0.75, "not_applicable", ())
        agreement = Agreement(0.123456789, ()) if len(inputs) == 2 else None
        return Classification(
            inputs, {name: value for name, value in answers.items() if name in (attributes or answers)}, agreement
        )


def _inputs(item: Item) -> tuple[Modality, ...]:
    present: list[Modality] = []
    if item.image is not None:
        present.append("image")
    if item.text is not None:
        present.append("text")
    return tuple(present)


async def _with_photo(item: Item) -> Item:
    return item if item.image_source is None else Item(await item.image_source(), item.text)


def _decode(image: bytes | None) -> tuple[float, ...] | None:
    if image is None:
        return None
    try:
        photo = Image.open(io.BytesIO(image), formats=["JPEG", "PNG", "WEBP"])
    except UnidentifiedImageError:
        raise UnsupportedImageTypeError("The photo is not a JPEG, PNG or WebP.", field="image") from None
    except Exception:
        raise UndecodableImageError("The photo is damaged or cut short.", field="image") from None
    try:
        pixel = photo.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    except Exception:
        raise UndecodableImageError("The photo is damaged or cut short.", field="image") from None
    assert isinstance(pixel, tuple)
    return tuple(float(channel) for channel in pixel)


def draw_photo(colour: str = "red", image_format: str = "PNG") -> bytes:
    """A plain photo, encoded."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 16), colour).save(buffer, image_format)
    return buffer.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@asynccontextmanager
async def open_client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, within the app's lifespan."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://itemlens") as client,
    ):
        yield client


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test alone."""
    for name in list(os.environ):
        if name.startswith("ITEMLENS_") and name != "ITEMLENS_DATA":
            monkeypatch.delenv(name)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def app(settings: Settings, engine: FakeEngine) -> FastAPI:
    return create_app(settings, engine=engine)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(app) as client:
        yield client
