"""What is held out is trained on by nothing and known to nothing, and the bundle says so."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest

from scripts.held_out import column_and_labels, held_out_labels
from tests.scripts.conftest import run_training, steps_untraced


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_a_held_out_label_is_unknown_to_the_model(shop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with steps_untraced():
        flags = ["--hold-out", "colour=blue,green", "--hold-out", "material=wool"]
        run = run_training(shop, tmp_path, epochs=1, batch_size=64, flags=flags)
    assert run.status == 0
    assert "training rows are held out" in capfd.readouterr().out
    labels = json.loads((run.bundle / "labels.json").read_text())
    assert labels["heads"][0]["paths"] == [["warm", "red"], ["warm", "yellow"]]
    assert labels["heads"][1]["labels"] == ["glass", "steel"]
    manifest = json.loads((run.bundle / "manifest.json").read_text())
    assert manifest["held_out"]["labels"] == {"colour": ["blue", "green"], "material": ["wool"]}
    with (shop / "items.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    left = [row for row in rows if row["colour"] in ("red", "yellow") and row["material"] != "wool"]
    assert manifest["training"]["train_rows"] == sum(row["split"] == "train" for row in left)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("colour=mauve", "no row has 'mauve' in column 'colour'"),
        ("brand=Nike", "there is no label column 'brand'; there are tone, colour, material"),
        ("tone=warm,cold", "leaves no row to train on"),
    ],
)
def test_a_wrong_flag_says_what_is_wrong(
    flag: str, message: str, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_training(shop, tmp_path, epochs=1, flags=["--hold-out", flag]).status == 1
    assert message in capsys.readouterr().err


def test_brands_are_named_where_evaluation_looks_for_them() -> None:
    assert held_out_labels({"brandName": ["Nike"], "colour": ["red"]})["brands"] == ["Nike"]
    assert held_out_labels({"colour": ["red"]}) == {"labels": {"colour": ["red"]}}
    assert held_out_labels({}) == {}


@pytest.mark.parametrize("text", ["brandName", "brandName=", "=Nike", "brandName=,"])
def test_half_a_flag_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="COLUMN=LABEL"):
        column_and_labels(text)
