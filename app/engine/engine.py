"""The engine: items in, answers out.

Owns the life of the service's models (open, serve, close) and the way of a request: choose the version, admit, read the
items, batch, answer. Refuses to know HTTP, files and runtime libraries.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from app.engine.batcher import Batcher
from app.engine.decode import DecodePool
from app.engine.errors import (
    ItemError,
    NotReadyError,
    RequestError,
    SpaceConflictError,
    UnknownAttributeError,
    UnknownDimensionsError,
)
from app.engine.items import (
    Classification,
    Embedding,
    EmbeddingModality,
    EmbeddingReply,
    Item,
    ModelDescription,
    Reply,
    Timing,
)
from app.engine.registry import LoadedVersion, Registry
from app.engine.settings import EngineSettings
from app.engine.submission import ItemOutputs
from app.metrics import DECISIONS, ITEMS

ResultT = TypeVar("ResultT")

# An answer costs tens of microseconds; the event loop turns to others after this many.
_ANSWERS_PER_TURN = 8
_CLOSE_GRACE_S = 15.0
"""Below the 20 s that the service gives its requests at shutdown."""


@dataclass(frozen=True, slots=True)
class _Served:
    loaded: LoadedVersion
    batcher: Batcher


async def open_engine(settings: EngineSettings) -> Engine:
    """Load, verify, warm up and prove every model, off the event loop.

    Raises BundleError, one line, when a model has no version that passes or there is no model at all.
    """
    registry = await asyncio.to_thread(Registry.open, settings)
    return Engine(registry, settings)


class Engine:
    """Safe to call from many tasks of one event loop at once. Cancelling a call drops its work."""

    def __init__(self, registry: Registry, settings: EngineSettings) -> None:
        self._registry = registry
        self._pool = DecodePool(settings)
        self._served = {
            loaded.bundle.name: _Served(
                loaded,
                Batcher(loaded.runtime, loaded.plan, model=loaded.bundle.name, max_queue_items=settings.max_queue_items),
            )
            for loaded in registry.versions()
        }
        self._closed = False

    async def classify(
        self,
        items: Sequence[Item],
        *,
        model: str | None = None,
        version: str | None = None,
        attributes: Sequence[str] | None = None,
        top_k: int = 5,
        precision: float = 0.98,
        timeout_s: float | None = None,
    ) -> Reply[Classification]:
        """What each item is. `items` may be empty; the options are checked all the same.

        Raises UnknownModelError, UnknownAttributeError, RequestError, OverloadedError, NotReadyError,
        DeadlineExceededError. What is wrong with one item is that item's result.
        """
        loaded = self._registry.resolve(model, version)
        names = _chosen_attributes(loaded, attributes)
        if top_k < 1:
            raise RequestError("top_k must be at least 1.", field="top_k")
        if not 0.0 < precision < 1.0:
            raise RequestError("precision must be between 0 and 1.", field="precision")
        name = loaded.bundle.name

        def answer(outputs: ItemOutputs) -> Classification:
            classification = loaded.answerer.classify(
                outputs.values,
                image_present="image" in outputs.inputs,
                text_present="text" in outputs.inputs,
                attributes=names,
                top_k=top_k,
                precision=precision,
            )
            for attribute, given in classification.attributes.items():
                DECISIONS.labels(name, attribute, given.decision).inc()
            return classification

        results, timing = await self._answer(loaded, items, "fused", timeout_s, answer)
        return Reply(model=loaded.ref, results=results, timing=timing)

    async def embed(
        self,
        items: Sequence[Item],
        *,
        model: str | None = None,
        version: str | None = None,
        modality: EmbeddingModality | None = None,
        dimensions: int | None = None,
        space_id: str | None = None,
        timeout_s: float | None = None,
    ) -> EmbeddingReply:
        """A unit vector per item: of all it came with (`fused`, the default), or of the photo or the title alone.

        `dimensions` is a listed prefix length (None: the full one). `space_id` asks for the vector space that an index
        was built with: any served version that has it answers.

        Raises as `classify` does, and UnknownDimensionsError, SpaceConflictError.
        """
        loaded = self._in_space(model, version, space_id)
        legal = loaded.bundle.manifest.dimensions
        length = legal[-1] if dimensions is None else dimensions
        if length not in legal:
            raise UnknownDimensionsError(
                f"This model's embeddings have {', '.join(map(str, legal))} dimensions.", field="dimensions"
            )
        kind: EmbeddingModality = modality or "fused"

        def answer(outputs: ItemOutputs) -> Embedding:
            prefix = outputs.values[f"{kind}_embedding"][:length]
            if length < legal[-1]:
                prefix = prefix / max(float(np.linalg.norm(prefix)), 1e-12)
            return Embedding(outputs.inputs, array("f", prefix.astype(np.float32).tobytes()))

        results, timing = await self._answer(loaded, items, kind, timeout_s, answer)
        return EmbeddingReply(
            model=loaded.ref,
            results=results,
            timing=timing,
            space_id=loaded.bundle.manifest.space_id,
            dimensions=length,
        )

    def models(self) -> Sequence[ModelDescription]:
        """Every served model, the default one first."""
        return [self._registry.describe(loaded.bundle.name) for loaded in self._registry.versions()]

    def describe(self, name: str) -> ModelDescription:
        """Raises UnknownModelError."""
        return self._registry.describe(name)

    def is_ready(self) -> bool:
        """Whether every model answers: open, and no runtime thread has died."""
        return not self._closed and all(served.batcher.is_alive() for served in self._served.values())

    async def close(self) -> None:
        """Refuse new requests, answer the admitted ones (for up to 15 s), free everything. May be called twice."""
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(*(served.batcher.close(grace_s=_CLOSE_GRACE_S) for served in self._served.values()))
        await asyncio.to_thread(self._pool.close)
        for served in self._served.values():
            served.loaded.runtime.close()

    async def _answer(
        self,
        loaded: LoadedVersion,
        items: Sequence[Item],
        modality: EmbeddingModality,
        timeout_s: float | None,
        answer: Callable[[ItemOutputs], ResultT],
    ) -> tuple[list[ResultT | ItemError], Timing]:
        if self._closed:
            raise NotReadyError("The service is shutting down; send the request again.")
        if not items:
            return [], Timing()
        batcher = self._served[loaded.bundle.name].batcher
        submission = batcher.admit(len(items), timeout_s=timeout_s)
        self._pool.start(loaded.reader, batcher, submission, items, modality=modality)
        results: list[ResultT | ItemError] = []
        for index, outcome in enumerate(await submission.wait()):
            if index and index % _ANSWERS_PER_TURN == 0:
                await asyncio.sleep(0)
            results.append(outcome if isinstance(outcome, ItemError) else answer(outcome))
        for result in results:
            ITEMS.labels(loaded.bundle.name, result.code if isinstance(result, ItemError) else "ok").inc()
        return results, submission.timing

    def _in_space(self, model: str | None, version: str | None, space_id: str | None) -> LoadedVersion:
        """The version that embeds into `space_id`; without one, the version that the request names."""
        if space_id is None:
            return self._registry.resolve(model, version)
        named = model is not None or version is not None
        candidates = [self._registry.resolve(model, version)] if named else self._registry.versions()
        for loaded in candidates:
            if loaded.bundle.manifest.space_id == space_id:
                return loaded
        raise SpaceConflictError(
            "No served version embeds into this space; rebuild the index with the space that GET /v1/models names.",
            field="space",
        )


def _chosen_attributes(loaded: LoadedVersion, attributes: Sequence[str] | None) -> tuple[str, ...]:
    known = loaded.answerer.attributes
    if attributes is None:
        return tuple(known)
    if not attributes or not set(attributes) <= set(known):
        raise UnknownAttributeError(f"This model's attributes are {', '.join(known)}.", field="attributes")
    return tuple(dict.fromkeys(attributes))
