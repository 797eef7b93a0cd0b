"""The engine: items in, answers out.

Owns the life of the service's models (open, serve, close) and the way of a request: choose the version, admit, read the
items, batch, answer. Refuses to know HTTP, files and runtime libraries.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import numpy as np

from app.engine.answer_table import AttributeAnswers
from app.engine.decode import DecodePool
from app.engine.errors import (
    ItemError,
    NotReadyError,
    OverloadedError,
    RequestError,
    UnknownDimensionsError,
    UnsupportedModalityError,
)
from app.engine.fetching import PhotoFetches
from app.engine.items import (
    Classification,
    Embedding,
    EmbeddingModality,
    EmbeddingReply,
    HeldVersion,
    Item,
    ModelDescription,
    PhotoSource,
    Reply,
    Timing,
)
from app.engine.memory import keep_heap_small
from app.engine.registry import Registry, ServedVersion
from app.engine.serving_plan import Generation, LocalGeneration, Refusal, ServingPlan
from app.engine.settings import EngineSettings
from app.engine.submission import ItemOutputs
from app.engine.watch import ModelWatch
from app.metrics import ITEMS, count_soon, record, record_decisions

ResultT = TypeVar("ResultT")

# An answer costs tens of microseconds; the event loop turns to others after this many.
_ANSWERS_PER_TURN = 8
_TIDY_PAUSE_S = 10.0
"""While there are requests, freed memory is given back this often. A call takes a few ms of another thread."""
_CLOSE_GRACE_S = 15.0
"""Below the 20 s that the service gives its requests at shutdown."""


async def open_engine(settings: EngineSettings) -> Engine:
    """Load, verify, warm up and prove every model, off the event loop; then watch the models folder.

    Raises BundleError, one line, when a model has no version that passes or there is no model at all.
    """
    generation = LocalGeneration()
    engine = Engine(settings, generation)
    try:
        await engine.watch_models(generation)
    except BaseException:
        await engine.close()
        raise
    return engine


class Engine:
    """Safe to call from many tasks of one event loop at once. Cancelling a call drops its work.

    Which versions it serves is decided outside: by `ModelWatch`, or by the parent of several workers through `prepare` and
    `settle`. `generation` says which prepared plan is in force.
    """

    def __init__(self, settings: EngineSettings, generation: Generation) -> None:
        keep_heap_small()
        self._settings = settings
        self._registry = Registry(settings, generation)
        self._pool = DecodePool(settings)
        self._fetches = PhotoFetches(settings, self._pool)
        self._watch: ModelWatch | None = None
        self._companion: asyncio.Task[None] | None = None
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False

    async def watch_models(self, generation: LocalGeneration) -> None:
        """Serve what the models folder holds, now and from now on. Raises BundleError."""
        self._watch = ModelWatch(self._registry, generation, self._settings)
        await self._watch.open()
        self.accompany(asyncio.create_task(self._watch.run()))

    def look_for_models(self) -> None:
        """Look at the models folder at once, where this process watches it."""
        if self._watch is not None:
            self._watch.look_now()

    def accompany(self, task: asyncio.Task[None]) -> None:
        """`task` ends with the engine."""
        self._companion = task

    async def prepare(self, plan: ServingPlan) -> Sequence[Refusal]:
        """See `Registry.prepare`."""
        return await self._registry.prepare(plan)

    def settle(self) -> None:
        """See `Registry.settle`."""
        self._registry.settle()

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
        may_hold_loop: bool = False,
    ) -> Reply[Classification]:
        """What each item is. `items` may be empty; the options are checked all the same. `may_hold_loop`: nobody else waits
        for this event loop; a lone item that takes milliseconds is then answered in its thread, which saves waking another.

        Raises UnknownModelError, UnknownAttributeError, RequestError, OverloadedError, NotReadyError,
        DeadlineExceededError. What is wrong with one item is that item's result.
        """
        served = self._registry.resolve(model, version)
        loaded = served.loaded
        names = loaded.chosen_attributes(attributes)
        if top_k < 1:
            raise RequestError("top_k must be at least 1.", field="top_k")
        if not 0.0 < precision < 1.0:
            raise RequestError("precision must be between 0 and 1.", field="precision")
        name = loaded.bundle.name

        def answer(outputs: ItemOutputs) -> Classification:
            batch = outputs.batch
            if batch.scores is None:
                batch.scores = loaded.answerer.score(batch.values, batch.inputs)
            classification = loaded.answerer.answer(
                batch.values,
                batch.scores,
                outputs.position,
                attributes=names,
                top_k=top_k,
                precision=precision,
            )
            record_decisions(name, names, cast(AttributeAnswers, classification.attributes).decisions())
            return classification

        results, timing = await self._answer(served, items, "fused", timeout_s, answer, may_hold_loop)
        return Reply(model=served.key.ref, results=results, timing=timing)

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
        may_hold_loop: bool = False,
    ) -> EmbeddingReply:
        """A unit vector per item: of all it came with (`fused`, the default), or of the photo or the title alone.

        `dimensions` is a listed prefix length (None: the full one). `space_id` asks for the vector space that an index
        was built with: any version in memory that has it answers.

        Raises as `classify` does, and UnknownDimensionsError, SpaceConflictError.
        """
        served = self._registry.in_space(model, version, space_id)
        legal = served.loaded.bundle.manifest.dimensions
        length = legal[-1] if dimensions is None else dimensions
        if length not in legal:
            raise UnknownDimensionsError(
                f"This model's embeddings have {', '.join(map(str, legal))} dimensions.", field="dimensions"
            )
        kind: EmbeddingModality = modality or "fused"
        if kind != "fused" and kind not in served.loaded.reader.inputs:
            raise UnsupportedModalityError(f"This model has no {kind} input.", field="modality")

        def answer(outputs: ItemOutputs) -> Embedding:
            prefix = outputs.batch.values[f"{kind}_embedding"][outputs.position, :length]
            if length < legal[-1]:
                prefix = prefix / max(float(np.linalg.norm(prefix)), 1e-12)
            return Embedding(outputs.inputs, array("f", prefix.astype(np.float32).tobytes()))

        results, timing = await self._answer(served, items, kind, timeout_s, answer, may_hold_loop)
        return EmbeddingReply(
            model=served.key.ref,
            results=results,
            timing=timing,
            space_id=served.loaded.bundle.manifest.space_id,
            dimensions=length,
        )

    def is_overloaded(self) -> bool:
        """Whether for a while more has been asked for, of every model in use, than could be answered."""
        return self._registry.is_overloaded()

    def overload(self) -> OverloadedError | None:
        """What a request would be refused with now, whichever of the models in use it asks for; None where one could take it.
        Saves reading a request to learn the same at many times the price. Each question counts as a request."""
        return self._registry.overload()

    @contextmanager
    def hold(self, *, model: str | None, version: str | None, space_id: str | None) -> Iterator[HeldVersion]:
        """Choose a version as `embed` does, and keep it for a stream of calls that name it, whatever is switched meanwhile.

        Raises UnknownModelError, SpaceConflictError, NotReadyError.
        """
        with self._registry.holding(self._registry.in_space(model, version, space_id)) as held:
            yield held

    def models(self) -> Sequence[ModelDescription]:
        """Every served model, the default one first."""
        return self._registry.describe_all()

    def describe(self, name: str) -> ModelDescription:
        """Raises UnknownModelError."""
        return self._registry.describe(name)

    def is_ready(self) -> bool:
        """Whether every model answers: open, and no runtime thread has died."""
        return not self._closed and self._registry.serves()

    async def close(self) -> None:
        """Refuse new requests, answer the admitted ones (for up to 15 s), free everything. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        if self._companion is not None:
            self._companion.cancel()
            await asyncio.gather(self._companion, return_exceptions=True)
        await self._registry.close(grace_s=_CLOSE_GRACE_S)
        await self._fetches.close()
        await asyncio.to_thread(self._pool.close)

    async def _answer(
        self,
        served: ServedVersion,
        items: Sequence[Item],
        modality: EmbeddingModality,
        timeout_s: float | None,
        answer: Callable[[ItemOutputs], ResultT],
        may_hold_loop: bool,
    ) -> tuple[list[ResultT | ItemError], Timing]:
        if self._closed:
            raise NotReadyError("The service is shutting down; send the request again.")
        if not items:
            return [], Timing()
        served.asked_s = time.monotonic()
        reader, batcher = served.loaded.reader, served.batcher
        sources: dict[int, PhotoSource] = {}
        if reader.reads_photos(modality):
            sources = {index: item.image_source for index, item in enumerate(items) if item.image_source is not None}
        # No await since the version was chosen: one that is chosen cannot begin to drain before it has admitted.
        if sources:
            self._fetches.check_room(len(sources), model=served.key.name)
            submission = batcher.admit(len(items), timeout_s=timeout_s, fetching=len(sources))
            outcomes = await self._fetches.answer(reader, batcher, submission, items, sources, modality=modality)
        else:
            submission = batcher.admit(len(items), timeout_s=timeout_s)
            self._pool.start(reader, batcher, submission, items, modality=modality, may_hold_loop=may_hold_loop)
            outcomes = await submission.wait()
        results: list[ResultT | ItemError] = []
        for index, outcome in enumerate(outcomes):
            if index and index % _ANSWERS_PER_TURN == 0:
                await asyncio.sleep(0)
            results.append(outcome if isinstance(outcome, ItemError) else answer(outcome))
        answered = 0
        for result in results:
            if isinstance(result, ItemError):
                record(ITEMS.labels(served.key.name, result.code))
            else:
                answered += 1
        if answered:
            record(served.answered_items, answered)
        count_soon()
        if self._tidying is None and not self._closed:
            self._tidying = asyncio.get_running_loop().call_later(_TIDY_PAUSE_S, self._tidy)
        return results, submission.timing

    def _tidy(self) -> None:
        self._tidying = None
        self._registry.return_memory()
