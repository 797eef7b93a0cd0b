"""The last passes train what is behind the photo branch and leave the branch itself alone."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

import scripts.finishing
from app.engine.text import TitleTokenizer
from scripts.batches import FeatureBatches, Rows, group_titles
from scripts.config import NetworkConfig, TrainingConfig
from scripts.finishing import SIBLING_SHARE, finish, sibling_photos
from scripts.labels import LabelSpace, build_label_space
from scripts.losses import Recogniser
from scripts.network import build_network
from tests.scripts.conftest import steps_untraced

NETWORK = NetworkConfig(
    image_height=8, image_width=8, widths=(4,), depths=(1,), max_tokens=2, vocabulary_size=257, token_width=4,
    recurrent_width=4, fused_width=8, embedding_width=4, dimensions=(4,), dropout=0.0,
)  # fmt: skip
TRAINING = TrainingConfig(batch_size=16, finishing_passes=6, learning_rate=0.05, image_augmentation="digits")
COUNT = 32


def catalogue() -> tuple[Rows, LabelSpace, TitleTokenizer]:
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 2, COUNT)
    titles = [("ab", "xy")[k] for k in kind]
    table = {"kind": [("steel", "sheep")[k] for k in kind]}
    space = build_label_space(table, range(COUNT), label_columns=("kind",))
    rows = Rows(
        photos=rng.integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8),
        photo_present=np.ones(COUNT, bool),
        extra_photos=np.zeros((0, 8, 8, 3), np.uint8),
        extra_of_row={},
        titles=titles,
        labels=space.encode(table, COUNT),
        title_group=group_titles(titles),
    )
    return rows, space, TitleTokenizer.train(titles, vocabulary_size=257, max_tokens=2)


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_the_photo_branch_stays_bit_for_bit_while_the_rest_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.finishing, "VIEWS", 1)
    rows, space, tokenizer = catalogue()
    keras.utils.set_random_seed(1)
    network = build_network(NETWORK, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    model = Recogniser(network, space, NETWORK, TRAINING)
    branch = keras.Model(network.get_layer("normalise").input, network.get_layer("image_dense").output)
    before = [np.asarray(v).copy() for v in branch.variables]
    x = {
        "image": rows.photos, "token_ids": tokenizer.encode_many(rows.titles),
        "image_present": np.ones(COUNT, bool), "text_present": np.ones(COUNT, bool),
    }  # fmt: skip

    def likelihood() -> float:
        with steps_untraced():
            logits = network.predict(x, verbose=0)["fused_logits"]
        return float(np.take_along_axis(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), rows.labels, 1).mean())

    at_first = likelihood()
    with steps_untraced():
        finish(model, rows, np.arange(COUNT), tokenizer=tokenizer, label_names=["steel"], network=NETWORK, training=TRAINING)

    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(before, branch.variables, strict=True))
    assert likelihood() > at_first + 0.05


def test_features_are_thinned_as_often_as_asked_and_keep_their_mean() -> None:
    rows, _, tokenizer = catalogue()
    batches = FeatureBatches(
        rows, np.arange(COUNT), features=np.ones((COUNT, 500), np.float32), familiar=np.ones(COUNT, bool),
        own_share=np.full(COUNT, 0.7, np.float32), feature_dropout=0.4,
        tokenizer=tokenizer, label_names=["steel"], batch_size=COUNT, seed=1, epoch=0, strokes_are_outliers=False,
    )  # fmt: skip

    image = batches[0][0]["image"]

    assert (image == 0).mean() == pytest.approx(0.4, abs=0.02)
    assert image.mean() == pytest.approx(1.0, abs=0.03)
    assert np.array_equal(image, batches[0][0]["image"])
    assert batches[0][1]["own_share"] == pytest.approx(0.7), "what a view mixed is told to the loss"


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_a_view_says_how_much_of_each_photo_is_its_own() -> None:
    rows, space, tokenizer = catalogue()
    keras.utils.set_random_seed(1)
    network = build_network(NETWORK, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    model = Recogniser(network, space, NETWORK, replace(TRAINING, image_augmentation="none"))
    with steps_untraced():
        features, familiar, own_share = scripts.finishing._view(model, rows, np.arange(COUNT), TRAINING, 0)
        branch = keras.Model(network.get_layer("normalise").input, network.get_layer("image_dense").output)
        plain = branch.predict(rows.photos.astype(np.float32), verbose=0)
    untouched = familiar & (own_share == 1)
    assert untouched.any()
    assert np.allclose(features[untouched], plain[untouched], atol=1e-4)
    assert not np.isclose(features[own_share < 1], plain[own_share < 1], atol=1e-4).all(axis=1).any()
    assert (own_share[~familiar] == 1).all(), "made outliers are not mixed"


def test_photos_of_siblings_are_of_the_same_family_and_another_kind() -> None:
    count = 4000
    random = np.random.default_rng(1)
    kind = random.integers(0, 5, count)
    kinds = [("wear", "shoes", "boots"), ("wear", "shoes", "clogs"), ("wear", "tops", "shirt"), ("wear", "tops", "vest"),
             ("gear", "bags", "purse")]  # fmt: skip
    names = ("department", "family", "kind")
    table = {name: [kinds[k][level] for k in kind] for level, name in enumerate(names)}
    space = build_label_space(table, range(count), label_columns=names, hierarchy=names)
    labels = space.encode(table, count)
    train_rows = np.arange(count - 500)
    labels[:50, 2] = -1
    features = np.arange(count, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    familiar = random.random(count) > 0.1
    own_share = np.where(random.random(count) < 0.5, 1.0, 0.7).astype(np.float32)

    changed, share = sibling_photos(features, familiar, own_share, train_rows, labels, space, np.random.default_rng(2))
    taken = np.flatnonzero(share == 0.0)
    assert np.array_equal(taken, np.flatnonzero(changed[:, 0] != features[:, 0]))
    assert np.array_equal(np.delete(share, taken), np.delete(own_share, taken))
    donors = changed[taken, 0].astype(int)
    assert set(taken) | set(donors) <= set(train_rows)
    assert (labels[taken, 2] >= 0).all()
    assert (labels[donors, 2] >= 0).all()
    assert (labels[taken, 1] == labels[donors, 1]).all()
    assert (labels[taken, 2] != labels[donors, 2]).all()
    assert familiar[donors].all(), "an outlier is nobody's photo"
    assert (own_share[donors] == 1.0).all(), "nor is a mixed one"
    assert len(taken) / len(train_rows) == pytest.approx(SIBLING_SHARE * 0.4, abs=0.02), "half of two families of three"
    assert (features[:, 0] == np.arange(count)).all(), "what is kept for other passes stays"


def test_without_a_hierarchy_there_are_no_siblings() -> None:
    rows, space, _ = catalogue()
    features, own_share = np.ones((COUNT, 2), np.float32), np.ones(COUNT, np.float32)
    changed, share = sibling_photos(
        features, np.ones(COUNT, bool), own_share, np.arange(COUNT), rows.labels, space, np.random.default_rng(1)
    )
    assert changed is features
    assert share is own_share
