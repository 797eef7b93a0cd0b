from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from scripts.config import NetworkConfig, PhotoSource
from scripts.data.catalogue import Catalogue
from scripts.data.errors import CatalogueError
from tests.scripts.data.catalogue_files import load, photo_bytes, table_config, write_csv, write_photos, write_zip

ROWS = [[i, "Shirts", f"Product {i}"] for i in range(1, 6)]


@pytest.fixture(params=["folder", "zip"])
def photos(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "folder":
        return write_photos(tmp_path / "images", {f"{i}.png": 20 * i for i in range(1, 6)})
    return write_zip(tmp_path / "images.zip", {f"{i}.png": photo_bytes(20 * i) for i in range(1, 6)})


def cached_files(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


def load_five(tmp_path: Path, photos: Path, **network: int) -> Catalogue:
    sizes = NetworkConfig(image_height=network.get("height", 8), image_width=6)
    return load(table_config(write_csv(tmp_path / "items.csv", ROWS), photos, network=sizes), tmp_path)


def test_a_second_start_maps_the_same_file_and_writes_nothing(tmp_path: Path, photos: Path) -> None:
    first = load_five(tmp_path, photos)
    before = cached_files(tmp_path)
    second = load_five(tmp_path, photos)
    assert cached_files(tmp_path) == before
    assert isinstance(second.photos, np.memmap)
    np.testing.assert_array_equal(first.photos, second.photos)
    assert first.split.tolist() == second.split.tolist()


def test_a_second_start_decodes_no_photo(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", {f"{i}.png": 20 * i for i in range(1, 6)})
    load_five(tmp_path, photos)
    for path in photos.iterdir():  # other pixels under the same size and time: only decoding would see them
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_five(tmp_path, photos).photos[:, 4, 3, 0].tolist() == [20, 40, 60, 80, 100]


def test_a_changed_photo_is_decoded_again(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "images", {f"{i}.png": 20 * i for i in range(1, 6)})
    load_five(tmp_path, photos)
    (photos / "2.png").write_bytes(photo_bytes(222))
    os.utime(photos / "2.png", ns=(1, 1))
    assert load_five(tmp_path, photos).photos[1, 4, 3, 0] == 222


def test_another_size_is_another_entry(tmp_path: Path, photos: Path) -> None:
    assert load_five(tmp_path, photos).photos.shape[1:3] == (8, 6)
    assert load_five(tmp_path, photos, height=12).photos.shape[1:3] == (12, 6)
    assert len(cached_files(tmp_path)) == 4


def test_an_interrupted_or_truncated_cache_is_made_anew(tmp_path: Path, photos: Path) -> None:
    load_five(tmp_path, photos)
    (array,) = (tmp_path / "cache").glob("*.npy")
    array.write_bytes(array.read_bytes()[:-10])
    assert load_five(tmp_path, photos).photos[4, 4, 3, 0] == 100
    (index,) = (tmp_path / "cache").glob("*.json")
    index.unlink()
    assert load_five(tmp_path, photos).photos[4, 4, 3, 0] == 100


def test_no_temporary_file_stays(tmp_path: Path, photos: Path) -> None:
    load_five(tmp_path, photos)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".npy"]


def test_a_cache_folder_that_cannot_be_written_is_explained(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CatalogueError, match="choose another cache folder"):
        load_five(tmp_path, photos)


def test_a_damaged_zip_member_is_one_bad_row(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "images.zip", {f"{i}.png": photo_bytes(20 * i) for i in range(1, 6)})
    data = bytearray(path.read_bytes())
    where = data.find(photo_bytes(60))
    data[where + 30] ^= 0xFF
    path.write_bytes(bytes(data))
    report = load_five(tmp_path, path).report
    assert report.counts_by_reason() == {"undecodable_photo": 1}


def test_what_is_neither_folder_nor_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"not a zip")
    with pytest.raises(CatalogueError, match="neither a folder nor a readable zip"):
        load_five(tmp_path, tmp_path / "images.zip")


def test_squashed_photos_are_cached_apart_from_plain_ones(tmp_path: Path, photos: Path) -> None:
    table = write_csv(tmp_path / "items.csv", ROWS)
    load(table_config(table, photos), tmp_path)
    load(table_config(table, photos=(PhotoSource(photos, aspect_ratio=0.5),), image_column="id"), tmp_path)
    assert len(cached_files(tmp_path)) == 4
