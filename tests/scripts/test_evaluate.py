"""The command that prints how good a bundle is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.evaluate import main
from tests.scripts.conftest import MadeRun


def evaluate(run: MadeRun, shop: Path, tmp_path: Path, *flags: str) -> int:
    return main([str(run.bundle), "--config", str(shop / "shop.toml"), "--runs", str(tmp_path), "--runtime", "litert", *flags])


def test_it_prints_and_writes_the_figures_of_a_split(
    trained: MadeRun, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(trained, shop, tmp_path, "--split", "val", "--json", str(tmp_path / "quality.json")) == 0
    quality = json.loads((tmp_path / "quality.json").read_text())
    assert (quality["split"], quality["rows"], quality["runtime"]) == ("val", 60, "litert")
    colour = quality["patterns"]["both"]["colour"]
    shown = capsys.readouterr().out
    assert "photo + title" in shown
    assert f"val accuracy: {100 * colour['accuracy']:.2f} % (colour, photo + title)" in shown


def test_it_agrees_with_the_figures_in_the_bundle(trained: MadeRun, shop: Path, tmp_path: Path) -> None:
    assert evaluate(trained, shop, tmp_path, "--json", str(tmp_path / "quality.json")) == 0
    measured = json.loads((tmp_path / "quality.json").read_text())
    stored = json.loads((trained.bundle / "metrics.json").read_text())
    for pattern, attributes in stored["patterns"].items():
        for name, entry in attributes.items():
            assert measured["patterns"][pattern][name]["accuracy"] == pytest.approx(entry["accuracy"], abs=0.04)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_that_is_no_bundle_is_refused_in_one_line(
    split: str, trained: MadeRun, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(tmp_path), "--config", str(shop / "shop.toml"), "--runs", str(tmp_path), "--split", split])
    assert status == 1
    assert capsys.readouterr().err.startswith("evaluate: ")
