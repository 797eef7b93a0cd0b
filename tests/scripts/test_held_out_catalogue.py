"""The catalogue made of what was held out holds nothing else, mixes no split, and can be trained on as it is."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.config import load_config
from scripts.held_out_catalogue import DEFAULT_HOLD_OUT, main
from tests.scripts.conftest import ALL_LABELS, PHOTO, TITLE, config_text, steps_untraced, write_shop

COLUMNS = ["id", "photo", "title", "kind", "split"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made shop with a config, whose titles few products share, so that many title groups are there to draw from."""
    folder = write_shop(tmp_path_factory.mktemp("source"), train=80, val=12, test=12)
    rows = read(folder / "items.csv")
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:  # two products have one title at most
            writer.writerow(row | {"title": f"{row['title']} {int(row['id']) // 2}"})
    text = config_text(name="shop", columns=[PHOTO, TITLE, ALL_LABELS], epochs=1, batch_size=32)
    (folder / "shop.toml").write_text(text)
    return folder


def run(source: Path, out: Path, *flags: str) -> int:
    given = ["--config", str(source / "shop.toml"), "--runs", str(source / "runs"), "--out", str(out)]
    sizes = ["--train-photos", "20", "--val-photos", "6", "--photo-height", "32"]
    return main([*given, *sizes, "--hold-out", "colour=blue,green", *flags])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "catalogue"
    assert run(source, folder) == 0
    return folder


def counted(rows: Sequence[dict[str, str]]) -> dict[str, int]:
    return {split: sum(row["split"] == split for row in rows) for split in ("train", "val", "test")}


def test_it_holds_the_held_out_kinds_alone_and_tests_on_all_that_were_not_for_training(source: Path, made: Path) -> None:
    rows, before = read(made / "catalogue.csv"), {row["id"]: row for row in read(source / "items.csv")}
    assert list(rows[0]) == COLUMNS
    assert all(row["kind"] == before[row["id"]]["colour"] for row in rows)
    assert {row["kind"] for row in rows} == {"blue", "green"}
    expected = {name for name, row in before.items() if row["colour"] in ("blue", "green") and row["split"] != "train"}
    assert {row["id"] for row in rows if row["split"] == "test"} == expected
    assert all(before[row["id"]]["split"] == "train" for row in rows if row["split"] != "test")
    assert 18 <= counted(rows)["train"] <= 20
    assert 4 <= counted(rows)["val"] <= 6


def test_no_title_is_trained_on_and_validated_on(made: Path) -> None:
    titles = {split: {r["title"] for r in read(made / "catalogue.csv") if r["split"] == split} for split in ("train", "val")}
    assert not titles["train"] & titles["val"]


def test_photos_show_the_product_on_a_ground_that_is_not_plain(made: Path) -> None:
    blues, spreads = [], []
    for row in read(made / "catalogue.csv"):
        with Image.open(made / row["photo"]) as image:
            assert image.format == "JPEG"
            assert image.size == (32, 32)
            pixels = np.asarray(image, np.float64)
        spreads.append(np.concatenate([pixels[0], pixels[-1]]).std())
        if row["kind"] == "blue":
            blues.append(pixels[12:20, 12:20, 2].mean() - pixels[12:20, 12:20, 0].mean())
    assert np.median(spreads) > 10, "the source's ground is white all over"
    assert np.median(blues) > 60


def test_a_run_on_it_has_the_network_of_the_run_it_came_from(source: Path, made: Path, tmp_path: Path) -> None:
    from scripts.train import main as train

    config = load_config(made / "catalogue.toml")
    assert config.network == load_config(source / "shop.toml").network
    assert config.training.taught_epochs == 0
    flags = ["--config", str(made / "catalogue.toml"), "--runs", str(tmp_path), "--models", str(tmp_path / "models")]
    with pytest.warns(UserWarning, match="run_functions_eagerly"), steps_untraced():
        assert train([*flags, "--epochs", "1", "--finishing-passes", "0"]) == 0
    labels = json.loads((tmp_path / "models" / "shop-held-out" / "1" / "labels.json").read_text())
    assert labels["heads"][0]["labels"] == ["blue", "green"]


def test_the_same_seed_makes_the_same_catalogue_and_another_one_another(source: Path, made: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "same") == 0
    assert run(source, tmp_path / "other", "--seed", "5") == 0
    first, same, other = (folder / "catalogue.csv" for folder in (made, tmp_path / "same", tmp_path / "other"))
    assert first.read_bytes() == same.read_bytes()
    assert (made / "photos/00000.jpg").read_bytes() == (tmp_path / "same/photos/00000.jpg").read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_a_larger_photo_is_preferred_and_its_squash_undone(source: Path, tmp_path: Path) -> None:
    larger = source / "larger"
    larger.mkdir()
    for row in read(source / "items.csv"):  # a purple product, which no photo of the shop has
        image = Image.new("RGB", (64, 64), "white")
        image.paste((130, 20, 160), (12, 12, 52, 52))
        image.save(larger / f"{row['id']}.png")
    extra = f'extra_photos = [{{ path = "{larger}", aspect_ratio = 0.5 }}]'
    text = config_text(name="larger", columns=[PHOTO, TITLE, ALL_LABELS, extra], epochs=1)
    (source / "larger.toml").write_text(text)
    assert run(source, tmp_path / "out", "--config", str(source / "larger.toml")) == 0
    rows = read(tmp_path / "out" / "catalogue.csv")
    purples = []
    for row in rows:
        with Image.open(tmp_path / "out" / row["photo"]) as image:
            assert image.size == (16, 32)
            middle = np.asarray(image, np.float64)[12:20, 5:11].mean(axis=(0, 1))
        purples.append(min(middle[0], middle[2]) - middle[1])
    assert np.median(purples) > 50


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hold-out", "colour=mauve"], "no row has 'mauve' in column 'colour'"),
        (["--hold-out", "colour=blue,mauve", "--train-photos", "8"], "no photo of 'mauve' is left to train on"),
        (["--train-photos", "5000"], "too few for 5,000 photos to train"),
    ],
)
def test_what_cannot_be_made_is_said(
    flags: list[str], message: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, tmp_path / "out", *flags) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run(source, tmp_path) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_default_names_a_dozen_kinds() -> None:
    column, _, labels = DEFAULT_HOLD_OUT.partition("=")
    assert column == "articleType"
    assert len(set(labels.split(","))) == 12
