"""New confidences for the same network: another version, the same space, and nothing else changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from app.engine.bundle import load_bundle
from scripts.recalibrate import main
from tests.scripts.conftest import MadeRun


@pytest.fixture
def bundle(trained: MadeRun, tmp_path: Path) -> Path:
    folder = tmp_path / "models" / trained.name / "1"
    shutil.copytree(trained.bundle, folder)
    return folder


def run(bundle: Path, shop: Path, *flags: str) -> int:
    return main([str(bundle), "--config", str(shop / "shop.toml"), "--runs", str(bundle.parents[2] / "runs"), *flags])


def test_only_what_follows_from_the_calibration_changes(bundle: Path, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bundle, shop, "--split", "train", "--report-split", "val") == 0
    old, new = load_bundle(bundle), load_bundle(bundle.with_name("2"))
    assert new.version == "2"
    assert new.manifest.space_id == old.manifest.space_id
    changed = {name for name, entry in new.manifest.files.items() if entry.sha256 != old.manifest.files[name].sha256}
    assert changed == {"calibration.json", "metrics.json", "MODEL_CARD.md"}
    assert new.quality["split"] == "val"
    # 160 rows show more than 60 did.
    thresholds = [
        json.loads((path / "calibration.json").read_text())["patterns"]["both"]["thresholds"]["material"]
        for path in (old.path, new.path)
    ]
    assert max(p for p, _ in thresholds[1]) > max(p for p, _ in thresholds[0])
    assert "Calibrated anew from version 1 on 160 rows" in (new.path / "MODEL_CARD.md").read_text()
    assert "photo + title" in capsys.readouterr().out


def test_its_own_validation_rows_give_about_what_training_gave(bundle: Path, shop: Path) -> None:
    assert run(bundle, shop, "--version", "7") == 0
    before, after = (
        json.loads((bundle.with_name(version) / "calibration.json").read_text())["patterns"]["both"]["temperature"]
        for version in ("1", "7")
    )
    assert before.keys() == after.keys()
    assert list(after.values()) == pytest.approx(list(before.values()), rel=0.02)
    assert np.isfinite(list(after.values())).all()


def test_figures_on_the_calibrated_rows_are_not_given(bundle: Path, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(bundle, shop, "--split", "test")
    assert "flatter" in capsys.readouterr().err
