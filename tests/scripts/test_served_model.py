"""A bundle opened for evaluation answers as the service would, whole arrays at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from app.engine.errors import BundleError
from scripts.served_model import ServedModel, row
from tests.scripts.conftest import MadeRun


@pytest.fixture(scope="module")
def model(trained: MadeRun) -> ServedModel:
    return ServedModel(trained.bundle, runtime="litert", threads=1)


def photos(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_any_number_of_rows_is_answered_in_order(model: ServedModel) -> None:
    count = model.runtime.buckets[-1] + 3
    titles = [f"inox bowl {i % 5}" for i in range(count)]
    whole = model.run(photos(count), titles)
    assert whole["fused_logits"].shape[0] == count
    last = model.run(photos(count)[-2:], titles[-2:])
    for name in whole:
        assert np.allclose(whole[name][-2:], last[name], atol=1e-4), name
    assert row(whole, 1)["image_in_domain"].shape == ()


def test_absent_photos_and_titles_are_absent(model: ServedModel) -> None:
    no_photo = model.run(photos(2), ["inox bowl"] * 2, photo_present=np.array([True, False]))
    assert np.allclose(no_photo["fused_logits"][1], no_photo["text_logits"][1], atol=1e-4)
    assert not np.allclose(no_photo["fused_logits"][0], no_photo["text_logits"][0], atol=1e-4)
    no_title = model.run(photos(2), ["", "inox bowl"])
    assert np.allclose(no_title["fused_logits"][0], no_title["image_logits"][0], atol=1e-4)
    titles_alone = model.run(None, ["inox bowl"])
    assert np.allclose(titles_alone["fused_logits"], titles_alone["text_logits"], atol=1e-4)


def test_no_rows_are_an_error(model: ServedModel) -> None:
    with pytest.raises(ValueError, match="no rows"):
        model.run(None, [])


def test_a_damaged_bundle_is_refused(trained: MadeRun, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.bundle, tmp_path / "shop" / "1"))
    (folder / "labels.json").write_text((folder / "labels.json").read_text() + " ")
    with pytest.raises(BundleError, match=r"labels\.json"):
        ServedModel(folder)
