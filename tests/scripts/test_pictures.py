"""Pictures of a run are drawn whatever its history and titles hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from scripts.config import load_config
from scripts.data.catalogue import Catalogue, load_catalogue
from scripts.pictures import draw_curves, draw_run
from scripts.served_model import ServedModel
from tests.scripts.conftest import MadeRun


@pytest.fixture(scope="module")
def catalogue(shop: Path, trained: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_catalogue(load_config(shop / "shop.toml"), cache_dir=tmp_path_factory.mktemp("cache"))


def test_titles_with_prices_and_a_run_without_history_are_drawn(trained: MadeRun, catalogue: Catalogue, tmp_path: Path) -> None:
    priced = replace(catalogue, titles=["only $5 instead of $\\frac 10"] * len(catalogue.titles))
    draw_run(tmp_path, ServedModel(trained.bundle, runtime="litert"), priced, [], split="test")
    for name in ("curves.png", "predictions.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(10**6) or []) > 10


def test_epochs_that_nobody_looked_at_leave_gaps_in_the_curves(tmp_path: Path) -> None:
    history = [{"loss": 3.0}, {"loss": 2.0, "val_kind_image": 0.5}, {"loss": 1.0}, {"loss": 0.5, "val_kind_image": 0.75}]
    draw_curves(tmp_path / "curves.png", history)
    draw_curves(tmp_path / "none.png", [{"loss": entry["loss"]} for entry in history])
    with Image.open(tmp_path / "curves.png") as picture, Image.open(tmp_path / "none.png") as empty:
        assert picture.tobytes() != empty.tobytes()


def test_a_split_without_rows_has_no_predictions(trained: MadeRun, catalogue: Catalogue, tmp_path: Path) -> None:
    draw_run(
        tmp_path, ServedModel(trained.bundle, runtime="litert"), catalogue, [{"loss": 2.0}, {"loss": 1.0}], split="nothing"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
