"""The versions in this process's memory, and which of them answers what.

Owns each version from its loading to its freeing: a plan's missing versions are loaded beside those that serve, the plan
takes effect when the generation says so, and what it no longer names is drained and freed. Refuses to know how plans
come about (`app.engine.rollout`), requests and items.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from prometheus_client import Counter

from app.engine.batcher import Batcher
from app.engine.errors import (
    BundleError,
    NoRoomError,
    NotReadyError,
    OverloadedError,
    SpaceConflictError,
    UnknownModelError,
    is_want_of_threads,
)
from app.engine.items import HeldVersion, ModelDescription, ModelRef, VersionDescription
from app.engine.loading import LoadedVersion, load_version
from app.engine.memory import return_freed_memory
from app.engine.priority import give_way
from app.engine.serving_plan import Generation, Refusal, ServingPlan, VersionKey
from app.engine.settings import EngineSettings
from app.metrics import ITEMS, MODEL_READY

logger = structlog.get_logger(__name__)

ResultT = TypeVar("ResultT")

_DRAIN_GRACE_S = 150.0
"""For requests that were admitted before the switch. Above any deadline that a caller may set by default (120 s)."""
_HELD_PAUSE_S = 0.05
_ASKED_FOR_S = 60.0


@dataclass(slots=True, eq=False)
class ServedVersion:
    """A version with its queue. `holders`: streams that began with it and go on with it, whatever serves now. `asked_s`: when a
    request chose it last, in seconds of `time.monotonic()`. `answered_items`: the counter of its model."""

    key: VersionKey
    loaded: LoadedVersion
    batcher: Batcher
    holders: int = 0
    asked_s: float = 0.0
    answered_items: Counter = field(init=False)

    def __post_init__(self) -> None:
        self.answered_items = ITEMS.labels(self.key.name, "ok")


class Registry:
    """Lives on one event loop. `generation` may change at any time; each request reads it once."""

    def __init__(self, settings: EngineSettings, generation: Generation) -> None:
        self._settings = settings
        self._generation = generation
        self._plans: dict[int, ServingPlan] = {}
        self._versions: dict[VersionKey, ServedVersion] = {}
        self._loading: list[VersionKey] = []
        self._draining: list[ServedVersion] = []
        self._drains: set[asyncio.Task[None]] = set()
        # One thread for all loading: the rest of the machine serves, and what one version took is there for the next.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="model-loader", initializer=give_way)

    # --- the way of a plan ------------------------------------------------------------------------------------------

    async def prepare(self, plan: ServingPlan) -> Sequence[Refusal]:
        """Load what the plan names and is not in memory, off the event loop and one after the other; then the plan can
        take effect. Returns the refusals instead, if there are any."""
        missing = [key for key in plan.versions() if key not in self._versions]
        refusals: list[Refusal] = []
        beside = [self._versions[key].loaded for key in self.plan.versions()] if self._plans else []
        self._loading = missing
        try:
            for key in missing:
                try:
                    loaded = await self._on_loader(partial(load_version, key, self._settings, beside=beside))
                except BundleError as error:
                    refusals.append(Refusal(key, error.detail, is_temporary=isinstance(error, NoRoomError)))
                except Exception as error:
                    if is_want_of_threads(error):
                        raise  # the loader's own: nothing is wrong with the version
                    # Whatever a damaged file makes a library do: the type alone, since its words may be anything.
                    reason = f"{key.name}/{key.version}: it cannot be loaded ({type(error).__name__})"
                    refusals.append(Refusal(key, reason, is_temporary=isinstance(error, MemoryError)))
                else:
                    self._versions[key] = ServedVersion(key, loaded, self._batcher(key, loaded))
        finally:
            self._loading = []
        for refusal in refusals:
            MODEL_READY.labels(refusal.key.name, refusal.key.version).set(0)
        if not refusals:
            self._plans[plan.generation] = plan
        return refusals

    def _batcher(self, key: VersionKey, loaded: LoadedVersion) -> Batcher:
        try:
            return Batcher(
                loaded.runtime,
                loaded.plan,
                model=key.name,
                max_queue_items=self._settings.max_queue_items,
                overload_queue_s=self._settings.overload_queue_ms / 1000,
            )
        except BaseException:
            loaded.runtime.close()  # LiteRT's own, left to the interpreter's end, is a segmentation fault there
            raise

    def settle(self) -> None:
        """The generation has changed: forget earlier plans, drain and free what only they named. Returns at once."""
        plan = self.plan
        self._plans = {number: kept for number, kept in self._plans.items() if number >= plan.generation}
        wanted = {key for kept in self._plans.values() for key in kept.versions()}
        for key in [key for key in self._versions if key not in wanted]:
            version = self._versions.pop(key)
            self._draining.append(version)
            drain = asyncio.create_task(self._drain(version))
            self._drains.add(drain)
            drain.add_done_callback(self._drains.discard)
        for served in [*self._draining, *self._versions.values()]:
            MODEL_READY.labels(served.key.name, served.key.version).set(served.key in wanted)

    async def _drain(self, version: ServedVersion) -> None:
        key = version.key
        while version.holders:
            await asyncio.sleep(_HELD_PAUSE_S)
        await version.batcher.close(grace_s=_DRAIN_GRACE_S)
        self._draining.remove(version)
        # References alone free it; a collection would stop the whole process for 80 ms and more.
        await self._on_loader(version.loaded.runtime.close)
        del version
        await self._on_loader(return_freed_memory)
        logger.info("model_version_freed", model=key.name, version=key.version)

    def return_memory(self) -> None:
        """Give freed memory back to the system, off the event loop. Returns at once."""
        self._loader.submit(return_freed_memory)

    async def close(self, *, grace_s: float) -> None:
        """Refuse new items, answer the admitted ones for up to `grace_s` seconds, free everything."""
        versions = [*self._versions.values(), *self._draining]
        for drain in self._drains:
            drain.cancel()
        await asyncio.gather(*(version.batcher.close(grace_s=grace_s) for version in versions))
        for version in versions:
            version.loaded.runtime.close()
        self._loader.shutdown(wait=False)

    async def _on_loader(self, work: Callable[[], ResultT]) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)

    # --- what serves ------------------------------------------------------------------------------------------------

    @property
    def plan(self) -> ServingPlan:
        """What requests are answered by now. Raises NotReadyError when that is not loaded here."""
        plan = self._plans.get(self._generation.value)
        if plan is None:
            raise NotReadyError("The models are being loaded; send the request again.")
        return plan

    def serves(self) -> bool:
        """Whether every version of the present plan is loaded and its thread alive."""
        plan = self._plans.get(self._generation.value)
        return plan is not None and all(self._versions[key].batcher.is_alive() for key in plan.versions())

    def is_overloaded(self) -> bool:
        """See `Engine.is_overloaded`."""
        if not any(served.batcher.is_overloaded for served in self._versions.values()):
            return False  # which every request asks
        in_use = self._in_use()
        return bool(in_use) and all(served.batcher.is_overloaded for served in in_use)

    def overload(self) -> OverloadedError | None:
        """See `Engine.overload`."""
        refusals = [served.batcher.overload() for served in self._in_use()]
        return refusals[0] if refusals and all(refusals) else None

    def _in_use(self) -> list[ServedVersion]:
        """Versions that somebody asked for of late: the idle one of two models must not make the other's refusals dear. Who
        asks for it after all is let in as soon as anybody is, and then it counts."""
        plan = self._plans.get(self._generation.value)
        if plan is None:
            return []
        since_s = time.monotonic() - _ASKED_FOR_S
        return [served for key in plan.versions() if (served := self._versions[key]).asked_s > since_s]

    def candidates(self, model: str | None, version: str | None) -> Sequence[ServedVersion]:
        """What may answer a request that names so much, the defaults first. Raises UnknownModelError."""
        plan = self.plan
        if model is None and version is None:
            return [self._versions[key] for key in plan.versions()]
        keys = plan.models.get(plan.default_model if model is None else model)
        if keys is None:
            raise UnknownModelError("No model of this name is served; GET /v1/models lists them.", field="model")
        found = [self._versions[key] for key in keys if version in (None, key.version)]
        if not found:
            # A stream goes on with the version it holds.
            found = [held for held in self._draining if held.holders and held.key.ref == ModelRef(keys[0].name, version or "")]
        if not found:
            raise UnknownModelError("This version of the model is not served; leave it out for the default.", field="version")
        return found

    def in_space(self, model: str | None, version: str | None, space_id: str | None) -> ServedVersion:
        """The version that embeds into `space_id`; without one, `resolve`. Raises SpaceConflictError too."""
        if space_id is None:
            return self.resolve(model, version)
        for served in self.candidates(model, version):
            if served.loaded.bundle.manifest.space_id == space_id:
                return served
        raise SpaceConflictError(
            "No served version embeds into this space; rebuild the index with the space that GET /v1/models names.",
            field="space",
        )

    def resolve(self, model: str | None, version: str | None) -> ServedVersion:
        """The version that answers. Raises UnknownModelError."""
        if model is None and version is None:
            return self._versions[self.plan.versions()[0]]
        return self.candidates(model, version)[0]

    @contextmanager
    def holding(self, version: ServedVersion) -> Iterator[HeldVersion]:
        """Keeps the version in memory, and answering to its number, until the block ends."""
        version.holders += 1
        try:
            yield HeldVersion(version.key.ref, version.batcher.is_short)
        finally:
            version.holders -= 1

    # --- what clients are told --------------------------------------------------------------------------------------

    def describe_all(self) -> Sequence[ModelDescription]:
        """Every served model, the default one first."""
        return [self.describe(name) for name in dict.fromkeys(key.name for key in self.plan.versions())]

    def describe(self, name: str) -> ModelDescription:
        """Raises UnknownModelError."""
        plan = self.plan
        loaded = self.resolve(name, None).loaded
        bundle, manifest = loaded.bundle, loaded.bundle.manifest
        limits = {
            "max_image_bytes": self._settings.max_image_bytes,
            "max_image_pixels": self._settings.max_image_pixels,
            "max_text_chars": self._settings.max_text_chars,
        }
        if manifest.inputs.image is not None:
            limits |= {"image_height": manifest.inputs.image.height, "image_width": manifest.inputs.image.width}
        if manifest.inputs.text is not None:
            limits["max_tokens"] = manifest.inputs.text.max_tokens
        return ModelDescription(
            name=bundle.name,
            is_default=bundle.name == plan.default_model,
            version=bundle.version,
            versions=self._version_list(plan, name),
            inputs=loaded.reader.inputs,
            attributes=loaded.answerer.attribute_labels,
            hierarchy=loaded.answerer.hierarchy,
            hierarchy_paths=loaded.answerer.hierarchy_paths,
            space_id=manifest.space_id,
            dimensions=tuple(manifest.dimensions),
            limits=limits,
            quality=bundle.quality,
        )

    def _version_list(self, plan: ServingPlan, name: str) -> tuple[VersionDescription, ...]:
        keys = plan.models[name]
        return (
            *(VersionDescription(key.version, "ready", is_default=key == keys[0]) for key in keys),
            *(VersionDescription(key.version, "loading", is_default=False) for key in self._loading if key.name == name),
            *(
                VersionDescription(drained.key.version, "draining", is_default=False)
                for drained in self._draining
                if drained.key.name == name
            ),
            *(
                VersionDescription(refusal.key.version, "refused", is_default=False, reason=refusal.reason)
                for refusal in plan.refused
                if refusal.key.name == name
            ),
        )
