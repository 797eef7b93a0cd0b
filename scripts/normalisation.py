"""The statistics of batch normalisation for weights that no step of training ever had.

Owns measuring them anew. The averaged weights are the product of many steps, so the running means and variances of the
last steps do not belong to them, nor do those of smaller photos to full-size ones; SWA mends it by one more look at training
photos (Izmailov et al. 2018, arXiv:1803.05407, section 3.2). Refuses to know how the weights came about.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from scripts.losses import Recogniser

PHOTOS = 4096
"""Photos looked at. The statistics of a channel over this many are exact to a percent or two."""


def settle_normalisation(
    model: Recogniser,
    photos: NDArray[np.uint8],
    rows: NDArray[np.int64],
    *,
    seed: int,
    batch_size: int = 256,
    at_most: int = PHOTOS,
) -> None:
    """Set the moving mean and variance of every batch normalisation to those of up to `at_most` of the photos
    uint8[N, H, W, 3] that `rows` name, changed at random as in training. Does nothing for a network without any."""
    norms = [layer for layer in model.network.layers if isinstance(layer, layers.BatchNormalization)]
    if not norms or not len(rows):
        return
    branch = keras.Model(model.network.get_layer("normalise").input, model.network.get_layer("image_pool").output)
    chosen = np.random.default_rng([seed, 40_000]).permutation(rows)[:at_most]
    batches = np.array_split(chosen, max(1, round(len(chosen) / batch_size)))
    momenta = [layer.momentum for layer in norms]
    sums: list[Any] = [(0.0, 0.0)] * len(norms)
    try:
        for layer in norms:
            layer.momentum = 0.0  # the moving statistics become those of the batch
        for batch in batches:
            branch(model.augment(ops.convert_to_tensor(photos[batch].astype(np.float32))), training=True)
            sums = [
                (mean + np.asarray(layer.moving_mean), variance + np.asarray(layer.moving_variance))
                for (mean, variance), layer in zip(sums, norms, strict=True)
            ]
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    for layer, (mean, variance) in zip(norms, sums, strict=True):
        layer.moving_mean.assign(mean / len(batches))
        layer.moving_variance.assign(variance / len(batches))
