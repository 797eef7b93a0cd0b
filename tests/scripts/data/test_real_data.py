"""The presets against the data they are made for: `ITEMLENS_DATA` names the folder that holds `fashion/` and `mnist/`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.config import load_preset
from scripts.data.catalogue import load_catalogue

pytestmark = pytest.mark.data


@pytest.fixture
def data() -> Path:
    folder = os.environ.get("ITEMLENS_DATA")
    if not folder:
        pytest.skip("ITEMLENS_DATA does not name the folder with fashion/ and mnist/")
    return Path(folder)


def test_the_fashion_preset_finds_every_photo_title_and_label(data: Path, tmp_path: Path) -> None:
    catalogue = load_catalogue(load_preset("fashion", data / "fashion"), cache_dir=tmp_path, limit=200)
    report = catalogue.report
    assert (report.rows_kept, report.photos, report.titles) == (200, 200, 200)
    assert min(report.rows_per_split.values()) > 0
    assert report.extra_photos > 0
    assert report.issues == []
    assert catalogue.config.catalogue.hierarchy == ("masterCategory", "subCategory", "articleType")


def test_the_mnist_preset_reads_all_digits(data: Path, tmp_path: Path) -> None:
    report = load_catalogue(load_preset("mnist", data / "mnist"), cache_dir=tmp_path).report
    assert report.rows_per_split == {"train": 58_000, "val": 2_000, "test": 10_000}
    assert len(report.label_counts["digit"]) == 10
