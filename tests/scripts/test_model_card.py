"""The model card says what the numbers say."""

from __future__ import annotations

import json

from scripts.config import CatalogueConfig, RunConfig
from scripts.model_card import model_card
from tests.scripts.conftest import MadeRun


def test_the_card_quotes_the_bundles_own_numbers(trained: MadeRun) -> None:
    card = (trained.bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    quality = json.loads((trained.bundle / "metrics.json").read_text())
    manifest = json.loads((trained.bundle / "manifest.json").read_text())
    assert card.startswith("---\nmodel_name: shop\nversion: 1\n")
    assert manifest["space_id"] in card
    assert manifest["training"]["command"] in card
    assert "train 160, val 60, test 60" in card
    for pattern, title in (("both", "photo + title"), ("image", "photo only"), ("text", "title only")):
        section = card.split(f"### {title}\n")[1].split("###")[0]
        for name, entry in quality["patterns"][pattern].items():
            line = next(line for line in section.splitlines() if line.startswith(f"| {name} |"))
            assert f"| {entry['n']} |" in line
            assert f"{100 * entry['accuracy']:.2f} %" in line


def test_a_figure_that_is_not_known_is_a_dash() -> None:
    entry = {"n": 5, "accuracy": 0.8, "macro_f1": None, "ece": 0.01, "accepted_share": 0.0, "accepted_precision": None}
    training = {"command": "python -m scripts.train", "seed": 1, "epochs": 2, "seconds": 3, "backend": "tensorflow"}
    manifest = {
        "name": "m",
        "version": 4,
        "space_id": "m-1",
        "dimensions": [4, 8],
        "training": training | {"parameters": 10**6},
    }
    quality = {
        "split": "val",
        "rows": 5,
        "runtime": "tensorflow",
        "patterns": {"image": {"digit": entry}},
        "abstaining": {"val, photo only": 0.0},
    }
    data = {"rows_per_split": {"train": 1234, "val": 5}, "rows_dropped": 2}
    card = model_card(RunConfig("m", CatalogueConfig(), description="Digits.\n"), manifest, quality, data)
    assert "| digit | 5 | 80.00 % | - | 1.00 % | 0.00 % | - |" in card
    assert "train 1,234" in card
    assert "Digits." in card
    assert "LiteRT" not in card
    assert "Agreement" not in card
