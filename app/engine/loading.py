"""The way of one version from disk to ready: verify, open a runtime, warm up, replay the golden answers.

Owns the order of the checks and the choice of the runtime. Refuses to know which versions are wanted, requests and items.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from app.engine.answers import Answerer
from app.engine.batch_plan import PER_CALL_S, BatchPlan, measure_buckets, plan_batches, warm_buckets
from app.engine.bundle import Bundle, load_bundle
from app.engine.decode import ItemReader
from app.engine.errors import BundleError, NoRoomError, UnknownAttributeError
from app.engine.golden import replay_golden
from app.engine.memory import bytes_available, bytes_needed, release_mapped_files, return_freed_memory
from app.engine.runtimes import Runtime, RuntimeName, open_runtime
from app.engine.serving_plan import VersionKey
from app.engine.settings import EngineSettings
from app.engine.text import TitleTokenizer

logger = structlog.get_logger(__name__)

_ALIKE = 2.5
"""Times slower or faster than its sibling: what a busy machine does to a timing, and less than what another network does."""


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that passed everything and can answer."""

    bundle: Bundle
    runtime: Runtime
    plan: BatchPlan
    reader: ItemReader
    answerer: Answerer

    def chosen_attributes(self, attributes: Sequence[str] | None) -> tuple[str, ...]:
        """Each once, in the asked order; None: all. Raises UnknownAttributeError."""
        known = self.answerer.attributes
        if attributes is None:
            return tuple(known)
        unknown = next((f"attributes/{place}" for place, name in enumerate(attributes) if name not in known), None)
        if not attributes or unknown:
            raise UnknownAttributeError(f"This model's attributes are {', '.join(known)}.", field=unknown or "attributes")
        return tuple(dict.fromkeys(attributes))


def load_version(key: VersionKey, settings: EngineSettings, *, beside: Sequence[LoadedVersion] = ()) -> LoadedVersion:
    """Verify, open, warm up and prove one version. Blocks, for up to seconds.

    `beside`: what this process serves meanwhile. There must then be memory for one more, and timings are not taken from a
    busy machine where a version of the same model has them from an idle one. Raises BundleError; NoRoomError for want of
    memory.
    """
    bundle = load_bundle(settings.models_dir / key.name / key.version)
    if bundle.digest != key.digest:
        raise BundleError(f"{key.name}/{key.version}: its files changed while it was being loaded; it is looked at again")
    if beside:
        _check_room(bundle, settings)
    tokenizer = None
    if bundle.tokenizer_json is not None and bundle.manifest.inputs.text is not None:
        try:
            tokenizer = TitleTokenizer.from_json(bundle.tokenizer_json, bundle.manifest.inputs.text.max_tokens)
        except ValueError as error:
            raise BundleError(f"{bundle.name}/{bundle.version}: tokenizer.json: {error}") from error
    answerer = Answerer(bundle.labels_json, bundle.calibration_json)
    reader = ItemReader.of(bundle.spec(), settings, reads_image=bundle.manifest.inputs.image is not None, tokenizer=tokenizer)
    sibling = next((other for other in beside if other.bundle.name == key.name), None)
    runtime, plan = _open_first_good(bundle, settings, tokenizer, sibling)
    # Buckets that did not pay, golden answers, and weights as the file has them: half of what the process holds by now.
    return_freed_memory()
    release_mapped_files(bundle.path)
    logger.info(
        "model_version_ready",
        model=bundle.name,
        version=bundle.version,
        digest=bundle.digest[:12],
        runtime=runtime.name,
        max_batch_items=plan.max_items,
        max_lot_items=plan.max_lot_items,
        item_ms=round(plan.seconds_per_item * 1000, 2),
    )
    return LoadedVersion(bundle=bundle, runtime=runtime, plan=plan, reader=reader, answerer=answerer)


def _check_room(bundle: Bundle, settings: EngineSettings) -> None:
    needed, available = bytes_needed(bundle, largest_bucket=settings.max_batch_items), bytes_available()
    if available is not None and available < needed:
        raise NoRoomError(
            f"{bundle.name}/{bundle.version}: loading it needs about {needed >> 20} MiB and {available >> 20} MiB are free; "
            "give the service more memory or keep fewer versions, then send SIGUSR1"
        )


def _open_first_good(
    bundle: Bundle, settings: EngineSettings, tokenizer: TitleTokenizer | None, sibling: LoadedVersion | None
) -> tuple[Runtime, BatchPlan]:
    offered = bundle.manifest.runtimes
    wanted: list[RuntimeName] = ["litert", "tensorflow"] if settings.runtime == "auto" else [settings.runtime]
    choices = [name for name in wanted if name in offered]
    if not choices:
        raise BundleError(f"{bundle.name}/{bundle.version}: it has no {settings.runtime} model; choose another runtime")
    reasons: list[str] = []
    for name in choices:
        try:
            return _open_proven(bundle, name, settings, tokenizer, sibling)
        except BundleError as error:
            reasons.append(error.detail)
            if name != choices[-1]:
                logger.warning("runtime_refused", model=bundle.name, version=bundle.version, runtime=name, reason=error.detail)
    prefix = f"{bundle.name}/{bundle.version}: "
    raise BundleError(prefix + "; ".join(reason.removeprefix(prefix) for reason in reasons))


def _open_proven(
    bundle: Bundle,
    name: RuntimeName,
    settings: EngineSettings,
    tokenizer: TitleTokenizer | None,
    sibling: LoadedVersion | None,
) -> tuple[Runtime, BatchPlan]:
    if sibling is not None and (proven := _open_like(sibling, bundle, name, settings, tokenizer)) is not None:
        return proven
    spec = bundle.spec()
    spec = replace(spec, batch_buckets=tuple(b for b in spec.batch_buckets if b <= settings.max_batch_items))
    runtime = open_runtime(name, spec, threads=settings.effective_runtime_threads)
    try:
        # LiteRT computes in the thread that calls it, if it is given one; TensorFlow never does.
        is_alone = runtime.name == "litert" and settings.effective_runtime_threads == 1
        clock = time.thread_time if is_alone else time.perf_counter
        measured = measure_buckets(runtime, spec, max_batch_items=settings.max_batch_items, clock=clock)
        plan = plan_batches(measured, per_call_s=PER_CALL_S)
        # Proven as it will serve: with the buckets that stay.
        runtime.keep_buckets(plan.max_lot_items)
        replay_golden(bundle, runtime, tokenizer)
    except BaseException:
        runtime.close()
        raise
    return runtime, plan


def _open_like(
    sibling: LoadedVersion, bundle: Bundle, name: RuntimeName, settings: EngineSettings, tokenizer: TitleTokenizer | None
) -> tuple[Runtime, BatchPlan] | None:
    """With the sibling's plan and no other buckets, if the two networks are alike: the same shapes, and one item takes about
    as long. Preparing a bucket stops every other thread for 10 to 30 ms."""
    spec, plan = bundle.spec(), sibling.plan
    if sibling.runtime.name != name or replace(sibling.bundle.spec(), folder=spec.folder) != spec:
        return None
    spec = replace(spec, batch_buckets=tuple(bucket for bucket in spec.batch_buckets if bucket <= plan.max_lot_items))
    runtime = open_runtime(name, spec, threads=settings.effective_runtime_threads)
    try:
        seconds = warm_buckets(runtime, spec)
        if max(seconds, plan.seconds[1]) > _ALIKE * min(seconds, plan.seconds[1]):
            runtime.close()
            return None
        replay_golden(bundle, runtime, tokenizer)
    except BaseException:
        runtime.close()
        raise
    return runtime, plan
