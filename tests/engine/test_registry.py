"""From folders to versions that answer, with tiny real models: loading, the runtimes, what clients are told."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from app.engine.errors import BundleError, NotReadyError, UnknownModelError
from app.engine.registry import Registry
from app.engine.serving_plan import LocalGeneration
from app.engine.settings import EngineSettings
from app.engine.watch import ModelWatch
from app.metrics import MODEL_READY
from tests.tiny_bundle import seal

pytestmark = pytest.mark.anyio
Open = Callable[..., Awaitable[Registry]]


@pytest.fixture
def models_dir(tiny_copy: Path) -> Path:
    return tiny_copy.parent.parent


@pytest.fixture
async def open_registry() -> AsyncIterator[Open]:
    """Opens registries that are closed at the end."""
    opened: list[Registry] = []

    async def open_one(models_dir: Path, **settings: str) -> Registry:
        chosen = EngineSettings(models_dir=models_dir, runtime_threads=1, **settings)  # type: ignore[arg-type]
        generation = LocalGeneration()
        registry = Registry(chosen, generation)
        opened.append(registry)
        await ModelWatch(registry, generation, chosen).open()
        return registry

    yield open_one
    for registry in opened:
        await registry.close(grace_s=1)


def add_version(models_dir: Path, version: int, *, name: str = "tiny") -> Path:
    folder = Path(shutil.copytree(models_dir / "tiny" / "1", models_dir / name / str(version)))
    seal(folder, name=name, version=version)
    return folder


def damage(folder: Path, file: str = "labels.json") -> None:
    (folder / file).write_bytes(b"damaged")


async def test_the_newest_versions_are_served_and_the_newest_is_the_default(models_dir: Path, open_registry: Open) -> None:
    add_version(models_dir, 10)
    add_version(models_dir, 9)
    description = (await open_registry(models_dir)).describe("tiny")
    assert description.version == "10"
    assert [(version.version, version.is_default) for version in description.versions] == [("10", True), ("9", False)]


async def test_a_damaged_newest_version_falls_back_and_is_reported(models_dir: Path, open_registry: Open) -> None:
    damage(add_version(models_dir, 2))
    description = (await open_registry(models_dir)).describe("tiny")
    served, refused = description.versions
    assert (served.version, served.state, served.is_default) == ("1", "ready", True)
    assert (refused.version, refused.state, refused.is_default) == ("2", "refused", False)
    assert refused.reason == "tiny/2: labels.json does not have the size in manifest.json; copy the bundle again"
    assert MODEL_READY.labels("tiny", "1")._value.get() == 1
    assert MODEL_READY.labels("tiny", "2")._value.get() == 0


async def test_a_model_without_a_good_version_stops_the_start(models_dir: Path, open_registry: Open) -> None:
    add_version(models_dir, 1, name="other")
    damage(models_dir / "other" / "1")
    with pytest.raises(BundleError, match=r"no version of model other passes: other/1: labels\.json"):
        await open_registry(models_dir)


async def test_a_pinned_version_is_the_default_or_nothing_is_served(models_dir: Path, open_registry: Open) -> None:
    pinned = add_version(models_dir, 2)
    add_version(models_dir, 3)
    registry = await open_registry(models_dir, default_model="tiny", default_version="2")
    assert registry.describe("tiny").version == "2"
    damage(pinned)
    with pytest.raises(BundleError, match=r"pinned .* tiny/2: labels\.json"):
        await open_registry(models_dir, default_model="tiny", default_version="2")


async def test_models_are_listed_default_first(models_dir: Path, open_registry: Open) -> None:
    add_version(models_dir, 1, name="zebra")
    add_version(models_dir, 1, name="fashion")
    registry = await open_registry(models_dir)
    models = registry.describe_all()
    assert [(model.name, model.is_default) for model in models] == [("fashion", True), ("tiny", False), ("zebra", False)]


async def test_requests_are_resolved_by_name_and_version(models_dir: Path, open_registry: Open) -> None:
    add_version(models_dir, 2)
    registry = await open_registry(models_dir)
    assert registry.resolve(None, None) is registry.resolve("tiny", "2")
    assert registry.resolve(None, "1").key.version == "1"
    for model, version in (("shoes", None), ("tiny", "3"), (None, "01")):
        with pytest.raises(UnknownModelError):
            registry.resolve(model, version)


async def test_a_generation_that_is_not_loaded_here_is_not_answered_from_another(models_dir: Path) -> None:
    settings = EngineSettings(models_dir=models_dir, runtime_threads=1)
    generation = LocalGeneration()
    registry = Registry(settings, generation)
    await ModelWatch(registry, generation, settings).open()
    generation.value += 1
    with pytest.raises(NotReadyError):
        registry.resolve(None, None)
    assert not registry.serves()
    await registry.close(grace_s=1)


async def test_what_a_library_makes_of_a_file_is_a_refusal(
    models_dir: Path, open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise KeyError("whatever stood in the file")

    monkeypatch.setattr("app.engine.loading.replay_golden", explode)
    with pytest.raises(BundleError, match=r"^no version of model tiny passes: tiny/1: it cannot be loaded \(KeyError\)$"):
        await open_registry(models_dir)


async def test_auto_prefers_litert(models_dir: Path, open_registry: Open) -> None:
    assert (await open_registry(models_dir)).resolve(None, None).loaded.runtime.name == "litert"


async def test_auto_falls_back_to_tensorflow_where_litert_fails(models_dir: Path, open_registry: Open) -> None:
    (models_dir / "tiny" / "1" / "model.tflite").write_bytes(b"no model, yet listed")
    seal(models_dir / "tiny" / "1")
    assert (await open_registry(models_dir)).resolve(None, None).loaded.runtime.name == "tensorflow"
    with pytest.raises(BundleError, match="LiteRT refuses it"):
        await open_registry(models_dir, runtime="litert")


async def test_auto_takes_what_the_bundle_offers(models_dir: Path, open_registry: Open) -> None:
    (models_dir / "tiny" / "1" / "model.tflite").unlink()
    seal(models_dir / "tiny" / "1", runtimes=["tensorflow"])
    assert (await open_registry(models_dir)).resolve(None, None).loaded.runtime.name == "tensorflow"
    with pytest.raises(BundleError, match="it has no litert model"):
        await open_registry(models_dir, runtime="litert")


async def test_a_description_holds_what_a_client_needs(tiny_models_dir: Path, open_registry: Open) -> None:
    registry = await open_registry(tiny_models_dir, runtime="litert")
    tiny, photos = registry.describe("tiny"), registry.describe("photos")
    assert (tiny.inputs, photos.inputs) == (("image", "text"), ("image",))
    assert tiny.attributes["gender"] == ("Men", "Women")
    assert tiny.hierarchy == ("masterCategory", "articleType")
    assert tiny.hierarchy_paths[0] == ("Apparel", "Tshirts")
    assert tiny.dimensions == (4, 8, 16)
    assert tiny.limits["max_tokens"] == 8
    assert "max_tokens" not in photos.limits
    assert tiny.quality["test"]["gender"]["accuracy"] == 0.5
