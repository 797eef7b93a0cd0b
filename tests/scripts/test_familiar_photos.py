"""Which photos are of products is learnt last, and nothing else moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import keras
import numpy as np
import pytest

import scripts.familiar_photos
from scripts.config import NetworkConfig, TrainingConfig
from scripts.familiar_photos import learn_familiarity
from scripts.losses import Recogniser
from scripts.network import build_network
from scripts.outliers import outlier_photo, strange_thing
from tests.scripts.conftest import steps_untraced
from tests.scripts.test_finishing import COUNT, NETWORK, TRAINING, catalogue
from tests.scripts.test_photo_heads import outputs_of

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
PRODUCTS = replace(TRAINING, image_augmentation="products", handheld_photo_share=0.2)
READ_OUT = ("image_domain", "image_domain_hidden")


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scripts.familiar_photos, "PASSES", 1)
    with steps_untraced():
        yield


def model_of(network_config: NetworkConfig = NETWORK, training: TrainingConfig = PRODUCTS) -> Recogniser:
    _, space, tokenizer = catalogue()
    keras.utils.set_random_seed(1)
    network = build_network(network_config, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    return Recogniser(network, space, network_config, training)


def test_strange_photos_are_told_apart_and_all_else_stays_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.familiar_photos, "PASSES", 4)
    monkeypatch.setattr(scripts.familiar_photos, "LEARNING_RATE", 0.05)
    rows, _, tokenizer = catalogue()
    rng = np.random.default_rng(2)
    rows.photos[:] = 250
    rows.photos[:, 2:6, 2:6] = rng.integers(0, 60, (COUNT, 1, 1, 3))  # something dark on white
    model = model_of()
    network = model.network
    held = {v.path: np.asarray(v).copy() for v in network.variables if not any(name in v.path for name in READ_OUT)}
    trainable = [variable.path for variable in model.trainable_variables]
    strange = [outlier_photo(rng, 8, 8, photo, strokes=True) for photo in rows.photos]
    strange += [strange_thing(rng, 8, 8, photo) for photo in rows.photos]
    tokens = tokenizer.encode_many(rows.titles)
    before = outputs_of(network, rows.photos, tokens)

    learn_familiarity(model, rows, np.arange(COUNT), training=PRODUCTS)

    after = outputs_of(network, rows.photos, tokens)
    others = outputs_of(network, np.stack(strange), np.concatenate([tokens, tokens]))["image_in_domain"]
    assert np.mean(after["image_in_domain"][:, None] > others) > 0.8
    before.pop("image_in_domain")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert all(np.array_equal(value, np.asarray(v)) for v in network.variables if (value := held.get(v.path)) is not None)
    assert [variable.path for variable in model.trainable_variables] == trainable


def test_the_examples_are_photos_on_all_grounds_and_strange_ones() -> None:
    rows, _, _ = catalogue()
    model = model_of()
    features, familiar = scripts.familiar_photos._examples(model, rows, np.arange(COUNT), np.random.default_rng(1), PRODUCTS)
    assert familiar.sum() == COUNT + round(0.3 * COUNT)
    assert (familiar == 0).sum() == round(0.35 * COUNT) + round(0.3 * COUNT)
    assert features.shape == (len(familiar), NETWORK.fused_width)


def test_a_model_of_handwriting_is_shown_no_things_and_no_grounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(scripts.familiar_photos, "strange_thing", fail)
    monkeypatch.setattr(scripts.familiar_photos, "handheld_photo", fail)
    rows, _, _ = catalogue()
    learn_familiarity(model_of(training=TRAINING), rows, np.arange(COUNT), training=TRAINING)


def test_without_photos_there_is_nothing_to_learn() -> None:
    rows, _, _ = catalogue()
    rows.photo_present[:] = False
    model = model_of()
    before = [np.asarray(v).copy() for v in model.network.variables]
    learn_familiarity(model, rows, np.arange(COUNT), training=PRODUCTS)
    text_alone = replace(NETWORK, image_height=0, image_width=0, widths=(), depths=())
    learn_familiarity(model_of(text_alone), rows, np.arange(COUNT), training=PRODUCTS)
    assert all(np.array_equal(one, np.asarray(v)) for one, v in zip(before, model.network.variables, strict=True))
