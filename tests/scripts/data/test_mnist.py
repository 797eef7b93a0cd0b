from __future__ import annotations

import urllib.error
from pathlib import Path

import numpy as np
import pytest

from scripts.config import RunConfig, load_config, load_preset
from scripts.data.catalogue import Catalogue, load_catalogue
from scripts.data.errors import CatalogueError


def write_npz(path: Path, train: int = 100, test: int = 20) -> Path:
    generator = np.random.default_rng(0)
    np.savez(
        path,
        x_train=generator.integers(0, 256, (train, 28, 28), np.uint8),
        y_train=(np.arange(train) % 10).astype(np.uint8),
        x_test=generator.integers(0, 256, (test, 28, 28), np.uint8),
        y_test=(np.arange(test) % 10).astype(np.uint8),
    )
    return path


def load(data: Path, tmp_path: Path, limit: int | None = None) -> Catalogue:
    return load_catalogue(load_preset("mnist", data), cache_dir=tmp_path / "cache", limit=limit)


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_local_npz_or_its_folder_is_read(tmp_path: Path, named: str) -> None:
    path = write_npz(tmp_path / "mnist.npz")
    catalogue = load(path if named == "file" else tmp_path, tmp_path)
    assert catalogue.photos.shape == (120, 28, 28, 3)
    with np.load(path) as file:
        np.testing.assert_array_equal(catalogue.photos[:100, :, :, 2], file["x_train"])
        np.testing.assert_array_equal(catalogue.photos[100:, :, :, 0], file["x_test"])
    assert catalogue.labels["digit"].tolist() == [str(i % 10) for i in range(100)] + [str(i % 10) for i in range(20)]
    assert catalogue.report.rows_per_split == {"train": 90, "val": 10, "test": 20}
    assert (catalogue.split[100:] == "test").all()


def test_val_is_the_same_at_every_start(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "mnist.npz")
    assert load(path, tmp_path).split.tolist() == load(path, tmp_path).split.tolist()


def test_limit_keeps_all_splits(tmp_path: Path) -> None:
    report = load(write_npz(tmp_path / "mnist.npz"), tmp_path, limit=60).report
    assert report.rows_per_split == {"train": 45, "val": 5, "test": 10}


def test_another_size_is_fitted(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('preset = "mnist"\ncatalogue = {kind = "mnist"}\nnetwork = {image_height = 16, image_width = 14}\n')
    config: RunConfig = load_config(path, data=write_npz(tmp_path / "mnist.npz"))
    assert load_catalogue(config, cache_dir=tmp_path / "cache").photos.shape == (120, 16, 14, 3)


def test_a_missing_file_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"--data with mnist\.npz"):
        load(tmp_path, tmp_path)


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(CatalogueError, match=r"not Keras' mnist\.npz"):
        load(tmp_path, tmp_path)


def test_an_npz_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(CatalogueError, match=r"not Keras' mnist\.npz"):
        load(tmp_path, tmp_path)


def test_without_a_network_the_message_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", unreachable)
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path / "keras"))
    with pytest.raises(CatalogueError, match=r"no route to host.*--data with an mnist\.npz"):
        load_catalogue(load_preset("mnist"), cache_dir=tmp_path / "cache")
