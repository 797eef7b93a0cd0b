import shutil
from pathlib import Path

import pytest

from app.engine.errors import BundleError, UnknownModelError
from app.engine.registry import Registry
from app.engine.settings import EngineSettings
from app.metrics import MODEL_READY
from tests.tiny_bundle import seal


@pytest.fixture
def models_dir(tiny_copy: Path) -> Path:
    return tiny_copy.parent.parent


def add_version(models_dir: Path, version: int, *, name: str = "tiny") -> Path:
    folder = Path(shutil.copytree(models_dir / "tiny" / "1", models_dir / name / str(version)))
    seal(folder, name=name, version=version)
    return folder


def damage(folder: Path, file: str = "labels.json") -> None:
    (folder / file).write_bytes(b"damaged")


def open_registry(models_dir: Path, **settings: str) -> Registry:
    return Registry.open(EngineSettings(models_dir=models_dir, runtime_threads=1, **settings))  # type: ignore[arg-type]


def test_the_newest_version_is_served(models_dir: Path) -> None:
    add_version(models_dir, 10)
    add_version(models_dir, 9)
    description = open_registry(models_dir).describe("tiny")
    assert description.version == "10"
    assert [version.version for version in description.versions] == ["10"]


def test_a_damaged_newest_version_falls_back_and_is_reported(models_dir: Path) -> None:
    damage(add_version(models_dir, 2))
    description = open_registry(models_dir).describe("tiny")
    served, refused = description.versions
    assert (served.version, served.state, served.is_default) == ("1", "ready", True)
    assert (refused.version, refused.state, refused.is_default) == ("2", "refused", False)
    assert refused.reason == "tiny/2: labels.json does not have the size in manifest.json; copy the bundle again"
    assert MODEL_READY.labels("tiny", "1")._value.get() == 1
    assert MODEL_READY.labels("tiny", "2")._value.get() == 0


def test_a_model_without_a_good_version_stops_the_start(models_dir: Path) -> None:
    add_version(models_dir, 1, name="other")
    damage(models_dir / "other" / "1")
    with pytest.raises(BundleError, match=r"no version of model other passes: other/1: labels\.json"):
        open_registry(models_dir)


def test_a_pinned_version_is_served_or_nothing(models_dir: Path) -> None:
    pinned = add_version(models_dir, 2)
    add_version(models_dir, 3)
    assert open_registry(models_dir, default_model="tiny", default_version="2").describe("tiny").version == "2"
    damage(pinned)
    with pytest.raises(BundleError, match="tiny/2"):
        open_registry(models_dir, default_model="tiny", default_version="2")


def test_a_pinned_version_that_is_not_there_is_refused(models_dir: Path) -> None:
    with pytest.raises(BundleError, match=r"tiny/7: manifest\.json is missing"):
        open_registry(models_dir, default_version="7")


@pytest.mark.parametrize("content", [None, "1", "tiny", "tiny/new", ".hidden/1", "tiny/0", "tiny/.1.tmp"])
def test_a_folder_without_models_is_refused(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / content).mkdir(parents=True)
    with pytest.raises(BundleError, match="no model here"):
        open_registry(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        open_registry(tmp_path / "nowhere")


def test_an_unknown_default_model_names_those_there_are(models_dir: Path) -> None:
    with pytest.raises(BundleError, match="no model shoes; there are tiny"):
        open_registry(models_dir, default_model="shoes")


def test_the_default_is_fashion_or_the_first_by_name(models_dir: Path) -> None:
    add_version(models_dir, 1, name="zebra")
    assert open_registry(models_dir).default_model == "tiny"
    add_version(models_dir, 1, name="fashion")
    registry = open_registry(models_dir)
    assert registry.default_model == "fashion"
    assert [loaded.bundle.name for loaded in registry.versions()] == ["fashion", "tiny", "zebra"]
    assert registry.describe("fashion").is_default
    assert not registry.describe("tiny").is_default


def test_requests_are_resolved_by_name_and_version(models_dir: Path) -> None:
    registry = open_registry(models_dir)
    assert registry.resolve(None, None).ref == registry.resolve("tiny", "1").ref
    for model, version in (("shoes", None), ("tiny", "2"), (None, "01")):
        with pytest.raises(UnknownModelError):
            registry.resolve(model, version)


def test_auto_prefers_litert(models_dir: Path) -> None:
    assert open_registry(models_dir).resolve(None, None).runtime.name == "litert"


def test_auto_falls_back_to_tensorflow_where_litert_fails(models_dir: Path) -> None:
    (models_dir / "tiny" / "1" / "model.tflite").write_bytes(b"no model, yet listed")
    seal(models_dir / "tiny" / "1")
    assert open_registry(models_dir).resolve(None, None).runtime.name == "tensorflow"
    with pytest.raises(BundleError, match="LiteRT refuses it"):
        open_registry(models_dir, runtime="litert")


def test_auto_takes_what_the_bundle_offers(models_dir: Path) -> None:
    (models_dir / "tiny" / "1" / "model.tflite").unlink()
    seal(models_dir / "tiny" / "1", runtimes=["tensorflow"])
    assert open_registry(models_dir).resolve(None, None).runtime.name == "tensorflow"
    with pytest.raises(BundleError, match="it has no litert model"):
        open_registry(models_dir, runtime="litert")


def test_a_description_holds_what_a_client_needs(tiny_models_dir: Path) -> None:
    registry = open_registry(tiny_models_dir, runtime="litert")
    tiny, photos = registry.describe("tiny"), registry.describe("photos")
    assert (tiny.inputs, photos.inputs) == (("image", "text"), ("image",))
    assert tiny.attributes["gender"] == ("Men", "Women")
    assert tiny.hierarchy == ("masterCategory", "articleType")
    assert tiny.hierarchy_paths[0] == ("Apparel", "Tshirts")
    assert tiny.dimensions == (4, 8, 16)
    assert tiny.limits["max_tokens"] == 8
    assert "max_tokens" not in photos.limits
    assert tiny.quality["test"]["gender"]["accuracy"] == 0.5
