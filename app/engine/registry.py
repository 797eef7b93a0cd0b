"""Which models are served: the scan of the models folder, and the way of a version from disk to ready.

Owns loading (verify, open a runtime, warm up, replay the golden answers), the fall-back to an older version, defaults
and descriptions. Refuses to know requests and items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.engine.answers import Answerer
from app.engine.batch_plan import BatchPlan, measure_buckets, plan_batches
from app.engine.bundle import Bundle, load_bundle
from app.engine.decode import ItemReader
from app.engine.errors import BundleError, UnknownModelError
from app.engine.golden import replay_golden
from app.engine.items import ModelDescription, ModelRef, VersionDescription
from app.engine.runtimes import Runtime, RuntimeName, open_runtime
from app.engine.settings import EngineSettings
from app.engine.text import TitleTokenizer
from app.metrics import MODEL_READY

logger = structlog.get_logger(__name__)

# What people expect of a shop service where the folder holds several models.
_PREFERRED_DEFAULT = "fashion"


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that passed everything and can answer."""

    bundle: Bundle
    runtime: Runtime
    plan: BatchPlan
    reader: ItemReader
    answerer: Answerer

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.bundle.name, self.bundle.version)


class Registry:
    """The served version of every model, and what became of the others. Immutable once open."""

    def __init__(
        self,
        versions: Mapping[str, LoadedVersion],
        refused: Mapping[str, Sequence[VersionDescription]],
        *,
        default_model: str,
        settings: EngineSettings,
    ) -> None:
        self._versions = dict(versions)
        self._refused = refused
        self._settings = settings
        self.default_model = default_model

    @classmethod
    def open(cls, settings: EngineSettings) -> Registry:
        """Load the newest good version of every model below `settings.models_dir`. Blocks, for seconds.

        Raises BundleError: there is no model, or one of which no version passes.
        """
        found = _scan(settings.models_dir)
        if not found:
            raise BundleError(f"{settings.models_dir}: no model here; expected <name>/<version>/manifest.json")
        default = settings.default_model or (_PREFERRED_DEFAULT if _PREFERRED_DEFAULT in found else min(found))
        if default not in found:
            raise BundleError(f"{settings.models_dir}: no model {default}; there are {', '.join(sorted(found))}")
        versions: dict[str, LoadedVersion] = {}
        refused: dict[str, list[VersionDescription]] = {}
        try:
            for name, numbers in sorted(found.items()):
                pinned = settings.default_version if name == default else None
                candidates = [pinned] if pinned is not None else [str(number) for number in sorted(numbers, reverse=True)]
                refused[name] = []
                for version in candidates:
                    try:
                        versions[name] = load_version(settings.models_dir / name / version, settings)
                        MODEL_READY.labels(name, version).set(1)
                        break
                    except BundleError as error:
                        MODEL_READY.labels(name, version).set(0)
                        refused[name].append(VersionDescription(version, "refused", is_default=False, reason=error.detail))
                        logger.error("model_version_refused", model=name, version=version, reason=error.detail)
                else:
                    raise BundleError(f"no version of model {name} passes: {refused[name][0].reason}")
        except BaseException:
            for loaded in versions.values():
                loaded.runtime.close()
            raise
        return cls(versions, refused, default_model=default, settings=settings)

    def versions(self) -> Sequence[LoadedVersion]:
        """Every served version, the default model's first."""
        return sorted(
            self._versions.values(), key=lambda loaded: (loaded.bundle.name != self.default_model, loaded.bundle.name)
        )

    def resolve(self, model: str | None, version: str | None) -> LoadedVersion:
        """The version that answers. Raises UnknownModelError."""
        loaded = self._versions.get(self.default_model if model is None else model)
        if loaded is None:
            raise UnknownModelError("No model of this name is served; GET /v1/models lists them.", field="model")
        if version is not None and version != loaded.bundle.version:
            raise UnknownModelError("This version of the model is not served; leave it out for the default.", field="version")
        return loaded

    def describe(self, name: str) -> ModelDescription:
        """Raises UnknownModelError."""
        loaded = self.resolve(name, None)
        bundle, manifest = loaded.bundle, loaded.bundle.manifest
        served = VersionDescription(bundle.version, "ready", is_default=True)
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
            is_default=bundle.name == self.default_model,
            version=bundle.version,
            versions=(served, *self._refused.get(name, ())),
            inputs=loaded.reader.inputs,
            attributes=loaded.answerer.attribute_labels,
            hierarchy=loaded.answerer.hierarchy,
            hierarchy_paths=loaded.answerer.hierarchy_paths,
            space_id=manifest.space_id,
            dimensions=tuple(manifest.dimensions),
            limits=limits,
            quality=bundle.quality,
        )


def load_version(path: Path, settings: EngineSettings) -> LoadedVersion:
    """Verify, open, warm up and prove one version. Raises BundleError."""
    bundle = load_bundle(path)
    tokenizer = None
    if bundle.tokenizer_json is not None and bundle.manifest.inputs.text is not None:
        try:
            tokenizer = TitleTokenizer.from_json(bundle.tokenizer_json, bundle.manifest.inputs.text.max_tokens)
        except ValueError as error:
            raise BundleError(f"{bundle.name}/{bundle.version}: tokenizer.json: {error}") from error
    answerer = Answerer(bundle.labels_json, bundle.calibration_json)
    reader = ItemReader.of(bundle.spec(), settings, reads_image=bundle.manifest.inputs.image is not None, tokenizer=tokenizer)
    runtime, plan = _open_first_good(bundle, settings, tokenizer)
    logger.info(
        "model_version_ready",
        model=bundle.name,
        version=bundle.version,
        digest=bundle.digest[:12],
        runtime=runtime.name,
        max_batch_items=plan.max_items,
        item_ms=round(plan.seconds_per_item * 1000, 2),
    )
    return LoadedVersion(bundle=bundle, runtime=runtime, plan=plan, reader=reader, answerer=answerer)


def _open_first_good(bundle: Bundle, settings: EngineSettings, tokenizer: TitleTokenizer | None) -> tuple[Runtime, BatchPlan]:
    offered = bundle.manifest.runtimes
    wanted: list[RuntimeName] = ["litert", "tensorflow"] if settings.runtime == "auto" else [settings.runtime]
    choices = [name for name in wanted if name in offered]
    if not choices:
        raise BundleError(f"{bundle.name}/{bundle.version}: it has no {settings.runtime} model; choose another runtime")
    reasons: list[str] = []
    for name in choices:
        try:
            return _open_proven(bundle, name, settings, tokenizer)
        except BundleError as error:
            reasons.append(error.detail)
            if name != choices[-1]:
                logger.warning("runtime_refused", model=bundle.name, version=bundle.version, runtime=name, reason=error.detail)
    prefix = f"{bundle.name}/{bundle.version}: "
    raise BundleError(prefix + "; ".join(reason.removeprefix(prefix) for reason in reasons))


def _open_proven(
    bundle: Bundle, name: RuntimeName, settings: EngineSettings, tokenizer: TitleTokenizer | None
) -> tuple[Runtime, BatchPlan]:
    spec = bundle.spec()
    runtime = open_runtime(name, spec, threads=settings.effective_runtime_threads)
    try:
        plan = plan_batches(measure_buckets(runtime, spec, max_batch_items=settings.max_batch_items))
        # Proven as it will serve: with the buckets that stay.
        runtime.keep_buckets(plan.max_items)
        replay_golden(bundle, runtime, tokenizer)
    except BaseException:
        runtime.close()
        raise
    return runtime, plan


def _scan(models_dir: Path) -> dict[str, list[int]]:
    """Version numbers by model name. Whatever is not `<name>/<positive integer>/` is not a model."""
    found: dict[str, list[int]] = {}
    if not models_dir.is_dir():
        raise BundleError(f"{models_dir}: no such folder; set the models folder to one that holds <name>/<version>/")
    for folder in models_dir.iterdir():
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        numbers = [
            int(entry.name)
            for entry in folder.iterdir()
            if entry.is_dir() and entry.name.isdecimal() and entry.name.isascii() and not entry.name.startswith("0")
        ]
        if numbers:
            found[folder.name] = numbers
    return found
