"""A bundle's figures are measured on the bundle itself, and sealed with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from app.engine.bundle import load_bundle
from scripts.config import load_config
from scripts.data.catalogue import load_catalogue
from scripts.sealed_figures import seal_with_figures
from tests.scripts.conftest import MadeRun


def test_a_bundle_without_figures_gets_those_that_training_gave_it(trained: MadeRun, shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / trained.name / "1"
    shutil.copytree(trained.bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("metrics.json", "MODEL_CARD.md", "manifest.json", "manifest.sha256"):
        (folder / name).unlink()
    config = load_config(shop / "shop.toml")
    catalogue = load_catalogue(config, cache_dir=tmp_path / "cache")

    served, quality = seal_with_figures(folder, manifest, config=config, catalogue=catalogue, split="test")

    assert served.spec.folder == folder
    assert json.loads((folder / "metrics.json").read_text()) == quality
    sealed, trained_to = load_bundle(folder), load_bundle(trained.bundle)
    assert sealed.quality == trained_to.quality
    assert sealed.manifest.files == trained_to.manifest.files
