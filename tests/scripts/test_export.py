"""A bundle is there whole or not at all, and what the service would refuse is said before the training."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from app.engine.bundle_schema import Manifest
from app.engine.text import TitleTokenizer
from scripts.config import CatalogueConfig, NetworkConfig, RunConfig
from scripts.export import ExportError, check_exportable, manifest_of, new_bundle, next_version, seal, space_id, write_json
from scripts.labels import LabelSpace, build_label_space
from scripts.network import build_network

NETWORK = NetworkConfig(
    image_height=8, image_width=8, widths=(4,), depths=(1,), max_tokens=2, vocabulary_size=257, token_width=4,
    recurrent_width=4, fused_width=8, embedding_width=4, dimensions=(2, 4),
)  # fmt: skip
CONFIG = RunConfig("shop", CatalogueConfig(), NETWORK)


def space_of(column: str = "colour", label: str = "red") -> LabelSpace:
    return build_label_space({column: [label, "blue"]}, range(2), label_columns=(column,))


# ---- atomic


def test_a_bundle_appears_whole_under_its_name(tmp_path: Path) -> None:
    destination = tmp_path / "models" / "shop" / "1"
    with new_bundle(destination) as folder:
        (folder / "labels.json").write_text("{}")
        assert not destination.exists()
        assert (folder.parent.name, folder.name) == ("shop", "1"), "it can be loaded before it is moved"
        assert all(path.name.startswith(".") for path in destination.parent.iterdir()), "no service takes it for a version"
    assert [path.name for path in destination.iterdir()] == ["labels.json"]
    assert list(destination.parent.iterdir()) == [destination]
    assert destination.stat().st_mode & 0o055 == 0o055 & ~_umask(), "others may read it as far as the umask lets them"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, failure: type[BaseException]) -> None:
    def fail(destination: Path, *, replace_existing: bool) -> None:
        with new_bundle(destination, replace_existing=replace_existing) as folder:
            (folder / "half.bin").write_bytes(b"half")
            raise failure

    with pytest.raises(failure):
        fail(tmp_path / "shop" / "1", replace_existing=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "shop").iterdir()) == []

    old = tmp_path / "shop" / "2"
    old.mkdir()
    (old / "old.txt").write_text("old")
    with pytest.raises(failure):
        fail(old, replace_existing=True)
    assert [path.name for path in old.iterdir()] == ["old.txt"]
    assert list((tmp_path / "shop").iterdir()) == [old]


def test_a_taken_version_is_replaced_only_when_asked(tmp_path: Path) -> None:
    destination = tmp_path / "shop" / "1"
    destination.mkdir(parents=True)
    (destination / "old.txt").write_text("old")
    with pytest.raises(ExportError, match="--version"), new_bundle(destination):
        pass
    with new_bundle(destination, replace_existing=True) as folder:
        (folder / "new.txt").write_text("new")
    assert [path.name for path in destination.iterdir()] == ["new.txt"]
    assert list(destination.parent.iterdir()) == [destination]


def test_the_old_version_comes_back_when_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    old = tmp_path / "shop" / "1"
    old.mkdir(parents=True)
    (old / "old.txt").write_text("old")
    with pytest.raises(FileNotFoundError), new_bundle(old, replace_existing=True) as folder:
        folder.rmdir()  # what is to be moved into place is no longer there
    assert [path.name for path in old.iterdir()] == ["old.txt"]
    assert list(old.parent.iterdir()) == [old]


def test_the_next_version_follows_the_highest(tmp_path: Path) -> None:
    assert next_version(tmp_path / "shop") == 1
    for name in ("2", "10", "notes", ".10-temporary"):
        (tmp_path / "shop" / name).mkdir(parents=True)
    (tmp_path / "shop" / "99").write_text("a file")
    assert next_version(tmp_path / "shop") == 11


# ---- sealing


def test_the_seal_covers_every_file_and_follows_changes(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "data").write_bytes(b"123")
    seal(tmp_path, {"name": "shop"})
    write_json(tmp_path / "metrics.json", {"accuracy": 0.5})
    seal(tmp_path, {"name": "shop"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"variables/data", "metrics.json"}
    assert manifest["files"]["variables/data"] == {"sha256": hashlib.sha256(b"123").hexdigest(), "bytes": 3}
    digest, name = (tmp_path / "manifest.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest(), "manifest.json")


def test_json_is_utf_8_and_holds_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "labels.json", {"label": "Größe"})
    assert "Größe" in (tmp_path / "labels.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "metrics.json", {"accuracy": float("nan")})


# ---- said in time


def test_what_the_service_would_take_passes() -> None:
    space = space_of()
    check_exportable(CONFIG, 1, space, space.to_json({}))
    manifest = manifest_of(CONFIG, 3, space, "shop-0123", training={"seed": 1}, held_out={})
    assert Manifest.model_validate_json(json.dumps(manifest | {"files": {}})).version == 3


@pytest.mark.parametrize(
    ("config", "space", "named"),
    [
        (CONFIG, space_of(label="x" * 300), "labels.json"),
        (CONFIG, space_of(column="c" * 300), "c" * 300),
        (replace(CONFIG, name="two words"), space_of(), "two words"),
        (replace(CONFIG, network=replace(NETWORK, image_height=4)), space_of(), "inputs.image.height"),
    ],
)
def test_what_the_service_would_refuse_is_named_before_the_training(config: RunConfig, space: LabelSpace, named: str) -> None:
    with pytest.raises(ExportError, match=named):
        check_exportable(config, 1, space, space.to_json({}))


# ---- identity of the space


def test_the_space_follows_from_the_weights_that_move_a_vector() -> None:
    network = build_network(replace(NETWORK, photo_heads_width=3, title_heads_width=4), vocabulary_size=300, logits_width=2)
    tokenizer = TitleTokenizer.train(["red bowl"] * 3, vocabulary_size=300, max_tokens=2)
    other_tokenizer = TitleTokenizer.train(["blue lamp"] * 3, vocabulary_size=300, max_tokens=2)
    first = space_id("shop", network, tokenizer)
    assert first == space_id("shop", network, tokenizer)
    assert first.startswith("shop-")

    def shift(*parts: str) -> None:
        moved: list[keras.Variable] = [v for v in network.variables if any(part in v.path for part in parts)]
        assert moved
        for variable in moved:
            variable.assign(np.asarray(variable) + 1)

    shift("heads/", "photo_heads", "title_heads", "_domain")
    assert space_id("shop", network, tokenizer) == first, "relabelling and recalibrating keep the index"
    assert space_id("shop", network, other_tokenizer) != first
    shift("embedding/kernel")
    assert space_id("shop", network, tokenizer) != first
