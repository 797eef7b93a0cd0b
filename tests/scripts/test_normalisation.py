"""The statistics of batch normalisation follow the weights they stand beside."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from scripts.config import NetworkConfig, TrainingConfig
from scripts.labels import build_label_space
from scripts.losses import Recogniser
from scripts.network import build_network
from scripts.normalisation import settle_normalisation


@pytest.fixture(scope="module")
def model() -> Recogniser:
    labels = {"kind": np.array(["a", "b"], object)}
    space = build_label_space(labels, [0, 1], label_columns=["kind"])
    config = NetworkConfig(
        image_height=8, image_width=8, widths=(8,), depths=(1,), max_tokens=0, fused_width=8, embedding_width=8, dimensions=(8,)
    )
    keras.utils.set_random_seed(1)
    network = build_network(config, vocabulary_size=1, logits_width=space.logits_width)
    return Recogniser(network, space, config, TrainingConfig(image_augmentation="none"))


def photos(brightness: int) -> np.ndarray:
    noise = np.random.default_rng(3).integers(-40, 41, (64, 8, 8, 3))
    return (brightness + noise).clip(0, 255).astype(np.uint8)


def normalised_stem(model: Recogniser, images: np.ndarray) -> np.ndarray:
    stem = keras.Model(model.network.get_layer("normalise").input, model.network.get_layer("stem_a_norm").output)
    return np.asarray(stem(images.astype(np.float32)))


def test_afterwards_a_channel_has_mean_nought_and_variance_one_on_the_photos_seen(model: Recogniser) -> None:
    images = photos(200)

    settle_normalisation(model, images, np.arange(64), seed=1, batch_size=32)

    channels = normalised_stem(model, images)
    assert np.abs(channels.mean(axis=(0, 1, 2))).max() < 0.02
    assert np.abs(channels.var(axis=(0, 1, 2)) - 1).max() < 0.05


def test_only_the_named_rows_are_looked_at(model: Recogniser) -> None:
    images = np.concatenate([photos(60), photos(200)])

    settle_normalisation(model, images, np.arange(64), seed=1)

    assert np.abs(normalised_stem(model, images[:64]).mean(axis=(0, 1, 2))).max() < 0.02
    assert np.abs(normalised_stem(model, images[64:]).mean(axis=(0, 1, 2))).max() > 0.5


def test_weights_and_momenta_stay_as_they_were(model: Recogniser) -> None:
    before = [np.asarray(v).copy() for v in model.network.trainable_variables]

    settle_normalisation(model, photos(90), np.arange(64), seed=1)

    assert all(np.array_equal(a, b) for a, b in zip(before, map(np.asarray, model.network.trainable_variables), strict=True))
    norms = [layer for layer in model.network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms
    assert all(layer.momentum == pytest.approx(0.97) for layer in norms)
