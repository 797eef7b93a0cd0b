"""The photo's own heads learn from what the photo branch says of each photo; nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import scripts.photo_heads
from scripts.losses import Recogniser
from scripts.network import PHOTO_HEADS, build_network
from scripts.photo_heads import read_photos_alone
from tests.scripts.conftest import steps_untraced
from tests.scripts.test_finishing import COUNT, NETWORK, TRAINING, catalogue

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")


def outputs_of(
    network: keras.Model, photos: NDArray[np.uint8], tokens: NDArray[np.int32] | None = None
) -> dict[str, NDArray[np.float32]]:
    """`tokens` int32[N, T]: where they are all 0 there is no title; without them every photo has the same one."""
    count = len(photos)
    tokens = np.ones((count, NETWORK.max_tokens), np.int32) if tokens is None else tokens
    x: dict[str, Any] = {
        "image": photos.astype(np.float32), "token_ids": tokens,
        "image_present": np.ones(count, bool), "text_present": (tokens != 0).any(axis=1),
    }  # fmt: skip
    return {name: np.asarray(value) for name, value in network(x, training=False).items()}


def test_the_photo_alone_is_answered_better_and_all_else_stays_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.photo_heads, "PASSES", 4)
    monkeypatch.setattr(scripts.photo_heads, "LEARNING_RATE", 0.05)
    rows, space, tokenizer = catalogue()
    bright = rows.labels[:, 0] == 1
    rows.photos[:] = rows.photos // 4 + np.where(bright, 190, 0).astype(np.uint8)[:, None, None, None]
    keras.utils.set_random_seed(1)
    config = replace(NETWORK, photo_heads_width=16)
    network = build_network(config, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    training = replace(TRAINING, image_augmentation="none")
    model = Recogniser(network, space, config, training)
    held = {v.path: np.asarray(v).copy() for v in network.variables if PHOTO_HEADS not in v.path and "seed" not in v.path}
    trainable = [variable.path for variable in model.trainable_variables]
    before = outputs_of(network, rows.photos)
    with steps_untraced():
        read_photos_alone(model, rows, np.arange(COUNT), training=training)
    after = outputs_of(network, rows.photos)

    def likelihood(logits: NDArray[np.float32]) -> float:
        spread = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return float(np.take_along_axis(spread, rows.labels[:, :1], 1).mean())

    assert likelihood(after["image_logits"]) > likelihood(before["image_logits"]) + 0.05
    assert all(np.array_equal(value, np.asarray(v)) for v in network.variables if (value := held.get(v.path)) is not None)
    assert all(np.array_equal(before[name], after[name]) for name in before if name != "image_logits")
    assert [variable.path for variable in model.trainable_variables] == trainable, "the next stage would train them too"
    assert not any(PHOTO_HEADS in path for path in trainable)


def test_what_teachers_said_of_a_photo_counts_beside_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.photo_heads, "PASSES", 2)
    monkeypatch.setattr(scripts.photo_heads, "LEARNING_RATE", 0.05)
    rows, space, tokenizer = catalogue()
    config = replace(NETWORK, photo_heads_width=16)
    training = replace(TRAINING, image_augmentation="none")
    taught = np.zeros((COUNT, space.published_width), np.float16)
    for head in space.heads:
        if not head.auxiliary:
            taught[:, head.offset] = 1.0  # whatever the photo shows
    chances = []
    for said in (None, taught):
        keras.utils.set_random_seed(1)
        network = build_network(config, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
        model = Recogniser(network, space, config, training)
        with steps_untraced():
            read_photos_alone(model, rows, np.arange(COUNT), training=training, taught=said)
        logits = outputs_of(network, rows.photos)["image_logits"][:, : space.heads[0].size]
        chances.append(float((np.exp(logits[:, 0]) / np.exp(logits).sum(axis=1)).mean()))
    assert chances[1] > chances[0] + 0.05


def test_a_network_without_such_heads_is_left_as_it_is() -> None:
    rows, space, tokenizer = catalogue()
    network = build_network(NETWORK, vocabulary_size=tokenizer.vocabulary_size, logits_width=space.logits_width)
    model = Recogniser(network, space, NETWORK, TRAINING)
    before = [np.asarray(v).copy() for v in network.variables]
    read_photos_alone(model, rows, np.arange(COUNT), training=TRAINING)
    assert all(np.array_equal(value, np.asarray(v)) for value, v in zip(before, network.variables, strict=True))
