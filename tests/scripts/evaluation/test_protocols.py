"""Protocols on a trained bundle: what they ask, what they leave out, and what a row without a photo or a title does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.config import PhotoSource, load_config
from scripts.data.catalogue import Catalogue, CatalogueError, load_catalogue
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.full_size import measure_full_size
from scripts.evaluation.misleading_titles import contradicting_titles, measure_misleading_titles
from scripts.evaluation.protocols import PROTOCOLS, measure_all
from scripts.evaluation.report import quality_lines
from scripts.evaluation.unseen_brands import measure_unseen_brands
from scripts.served_model import ServedModel
from tests.scripts.conftest import MadeRun
from tests.tiny_bundle import seal

# A model is trained for them.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(trained: MadeRun) -> ServedModel:
    return ServedModel(trained.bundle, runtime="litert", threads=1)


@pytest.fixture(scope="module")
def catalogue(shop: Path, trained: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return load_catalogue(load_config(shop / "shop.toml"), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def evaluation(model: ServedModel, catalogue: Catalogue) -> Evaluation:
    return Evaluation.of_split(model, catalogue, "val")


def test_roles_are_found_in_the_bundle(evaluation: Evaluation) -> None:
    assert (evaluation.kind_attribute, evaluation.family_attribute, evaluation.colour_attribute) == (
        "colour",
        "colour",
        "colour",
    )


def test_outputs_are_computed_once_per_set_of_inputs(evaluation: Evaluation) -> None:
    assert evaluation.outputs is evaluation.outputs
    changed = evaluation.changed("no title at all", titles=[""] * len(evaluation.rows))
    assert changed is evaluation.changed("no title at all", titles=["ignored, as the set is known"] * len(evaluation.rows))
    assert np.allclose(changed["fused_logits"], evaluation.outputs["image_logits"], atol=1e-4)


def test_titles_of_another_family_say_something_else(evaluation: Evaluation) -> None:
    titles = contradicting_titles(evaluation)
    assert titles is not None
    assert len(titles) == len(evaluation.rows)
    # A title of the shop names a material only, so what must differ is the row that it came from.
    same_family = replace(evaluation.catalogue, labels={**evaluation.catalogue.labels, "colour": np.full(280, "red", object)})
    assert contradicting_titles(Evaluation.of_split(evaluation.model, same_family, "val")) is None


def test_an_empty_title_costs_nothing(evaluation: Evaluation) -> None:
    empty = measure_misleading_titles(evaluation)["kinds"]["empty"]
    assert empty["left_out"] == 1.0
    assert all(entry["change"] == 0 and entry["within_max_loss"] for entry in empty["attributes"].values())


def test_rows_without_photos_are_asked_by_title_alone(model: ServedModel, catalogue: Catalogue) -> None:
    blind = replace(catalogue, photo_present=np.zeros(len(catalogue.split), bool))
    quality = measure_all(Evaluation.of_split(model, blind, "val"), list(PROTOCOLS))
    assert set(quality["patterns"]) == {"text"}
    assert set(quality["protocols"]["P5"]) == {"text"}
    for name in ("P3", "P6", "P7", "full-size", "retrieval", "agreement"):
        assert "no row has what is needed" in quality["left_out"][name], name
    assert "left out:" in list(quality_lines(quality))


def test_a_split_that_was_not_held_out_is_named(model: ServedModel, catalogue: Catalogue) -> None:
    notes = measure_all(Evaluation.of_split(model, catalogue, "train"))["notes"]
    assert "figures may flatter it" in notes[0]
    assert "notes" not in measure_all(Evaluation.of_split(model, catalogue, "test"))


def test_a_split_without_rows_and_photos_of_another_size_are_errors(model: ServedModel, catalogue: Catalogue) -> None:
    with pytest.raises(CatalogueError, match="no row in split 'nothing'"):
        Evaluation.of_split(model, catalogue, "nothing")
    smaller = replace(catalogue, photos=catalogue.photos[:, :8, :8])
    with pytest.raises(CatalogueError, match="reads photos of"):
        Evaluation.of_split(model, smaller, "val")


def test_full_size_photos_are_made_from_the_extra_source(evaluation: Evaluation, tmp_path: Path) -> None:
    catalogue = evaluation.catalogue
    (tmp_path / "big").mkdir()
    for row in evaluation.rows[:5]:
        name = Path(catalogue.photo_cells[row]).name
        Image.fromarray(catalogue.photos[row]).resize((64, 64)).save(tmp_path / "big" / name)
    config = catalogue.config
    source = PhotoSource(tmp_path / "big", aspect_ratio=1.0)
    detailed = replace(catalogue, config=replace(config, catalogue=replace(config.catalogue, extra_photos=(source,))))
    found = measure_full_size(Evaluation.of_split(evaluation.model, detailed, "val"))
    assert found["n"] == 5
    assert found["sizes"]["thumbnail"]["image"]["colour"]["n"] == 5
    assert found["same_label"]["thumbnail = full size, PNG"]["image"]["colour"] >= 0.8
    first = Evaluation.of_split(evaluation.model, detailed, "val", full_size_rows=2)
    assert measure_full_size(first)["n"] == 2
    with pytest.raises(NotApplicable, match="names no source"):
        measure_full_size(evaluation)


def test_unseen_brands_are_found_wherever_they_are(trained: MadeRun, catalogue: Catalogue, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.bundle, tmp_path / "shop" / "1"))
    seal(folder, held_out={"splits": ["val", "test"], "brands": ["Novel", "Absent"]})
    model = ServedModel(folder, runtime="litert", threads=1)
    brands = np.full(len(catalogue.split), "Known", object)
    brands[::7] = "Novel"
    branded = replace(catalogue, labels={**catalogue.labels, "brandName": brands})
    found = measure_unseen_brands(Evaluation.of_split(model, branded, "val"))
    assert (found["n"], found["brands"]) == (40, 2)
    colour = found["image"]["colour"]
    assert colour["n"] == 40
    assert colour["change_at_equal_mix"] == pytest.approx(colour["change"], abs=0.15)
    with pytest.raises(NotApplicable, match="no column of brands"):
        measure_unseen_brands(Evaluation.of_split(model, catalogue, "val"))
