"""Random changes to training photos that do not change what they show.

Owns the recipe per kind of photo. Works on any Keras backend, in the graph. Hue is never touched: the colour is a label.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops


class ImageAugmentation(keras.layers.Layer):  # type: ignore[misc]
    """float32[B, H, W, 3] in 0..255 to the same shape. `kind`: `none`, `digits` (no flips) or `products`."""

    def __init__(self, kind: Literal["none", "digits", "products"], seed: int) -> None:
        super().__init__(name="augmentation", trainable=False)
        self.kind = kind
        self.random = keras.random.SeedGenerator(seed)
        self.built = True  # it has no weights, and Keras warns of a layer that a text-only model never calls

    def call(self, image: Any) -> Any:
        if self.kind == "none":
            return image
        products = self.kind == "products"
        image = self._move(
            image,
            flip=products,
            turn=0.09 if products else 0.17,
            zoom=0.16 if products else 0.12,
            stretch=0.06,
            shift=0.08,
        )
        if products:
            image = self._light(image, 0.08)
            image = self._erase(image, probability=0.25, side=0.4)
        return image

    def _uniform(self, shape: tuple[Any, ...], low: float, high: float) -> Any:
        return keras.random.uniform(shape, low, high, seed=self.random)

    def _move(self, image: Any, *, flip: bool, turn: float, zoom: float, stretch: float, shift: float) -> Any:
        """One affine map per photo, sampled once: flip, turn (radians), zoom, stretch, shift (share of the side)."""
        rows, height, width = ops.shape(image)[0], ops.shape(image)[1], ops.shape(image)[2]
        angle = self._uniform((rows,), -turn, turn)
        scale = ops.exp(self._uniform((rows,), -zoom, zoom))
        aspect = ops.exp(self._uniform((rows,), -stretch, stretch))
        mirror = ops.where(self._uniform((rows,), 0, 1) < 0.5, -1.0, 1.0) if flip else ops.ones((rows,))
        half_h, half_w = (ops.cast(height, "float32") - 1) / 2, (ops.cast(width, "float32") - 1) / 2
        dx = self._uniform((rows,), -shift, shift) * 2 * half_w
        dy = self._uniform((rows,), -shift, shift) * 2 * half_h
        a, b = mirror * ops.cos(angle) * scale * aspect, -ops.sin(angle) * scale
        c, d = mirror * ops.sin(angle) * scale, ops.cos(angle) * scale / aspect
        zero = ops.zeros((rows,))
        transform = ops.stack(
            [a, b, half_w - a * half_w - b * half_h + dx, c, d, half_h - c * half_w - d * half_h + dy, zero, zero],
            axis=-1,
        )
        return ops.image.affine_transform(image, transform, interpolation="bilinear", fill_mode="nearest")

    def _light(self, image: Any, strength: float) -> Any:
        rows = ops.shape(image)[0]
        contrast = self._uniform((rows, 1, 1, 1), 1 - strength, 1 + strength)
        brightness = self._uniform((rows, 1, 1, 1), -255 * strength / 2, 255 * strength / 2)
        return ops.clip((image - 128) * contrast + 128 + brightness, 0, 255)

    def _erase(self, image: Any, *, probability: float, side: float) -> Any:
        """Random erasing (Zhong et al. 2017, arXiv:1708.04896) with a grey box of up to `side` of each side."""
        rows, height, width = ops.shape(image)[0], ops.shape(image)[1], ops.shape(image)[2]

        def inside(length: Any) -> Any:
            position = ops.cast(ops.arange(length), "float32")[None] / ops.cast(length, "float32")
            centre = self._uniform((rows, 1), 0, 1)
            return ops.abs(position - centre) < self._uniform((rows, 1), side / 8, side / 2)

        chosen = self._uniform((rows, 1, 1, 1), 0, 1) < probability
        box = inside(height)[:, :, None, None] & inside(width)[:, None, :, None] & chosen
        return ops.where(box, self._uniform((rows, 1, 1, 3), 0, 255), image)


def previous_item(values: Any) -> Any:
    """The same tensor with every item's row replaced by that of the item before it in the batch."""
    return ops.roll(values, 1, axis=0)


class PhotoMixing(keras.layers.Layer):  # type: ignore[misc]
    """Mix a `share` of the photos with the one before in the batch: half of them blended (mixup, Zhang et al. 2017,
    arXiv:1710.09412), half with a box of it pasted in (CutMix, Yun et al. 2019, arXiv:1905.04899).

    float32[B, H, W, 3] and bool[B] (which photos are there) to the mixed photos and float32[B]: how much of each is its own,
    from half to all. A photo is never mixed with a missing one, and none is while `active` is 0.
    """

    def __init__(self, share: float, seed: int) -> None:
        super().__init__(name="mixing", trainable=False)
        self.share = share
        self.random = keras.random.SeedGenerator(seed + 1)
        # A variable, so that a round without mixing needs no other compiled step.
        self.active = self.add_weight(name="active", shape=(), initializer="ones", trainable=False)
        self.built = True

    def call(self, image: Any, present: Any) -> Any:
        rows = ops.shape(image)[0]
        if not self.share:
            return image, ops.ones((rows,))
        height, width = ops.shape(image)[1], ops.shape(image)[2]

        def uniform(low: float, high: float) -> Any:
            return keras.random.uniform((rows,), low, high, seed=self.random)

        share = uniform(0.0, 0.5)
        side = ops.sqrt(share)
        box = _span(height, uniform(0.0, 1.0), side)[:, :, None] & _span(width, uniform(0.0, 1.0), side)[:, None, :]
        is_pasted = (uniform(0.0, 1.0) < 0.5)[:, None, None]
        taken = ops.where(is_pasted, ops.cast(box, "float32"), share[:, None, None])
        chosen = (uniform(0.0, 1.0) < self.share * self.active) & present & previous_item(present)
        taken = taken * ops.cast(chosen, "float32")[:, None, None]
        mixed = image * (1.0 - taken[..., None]) + previous_item(image) * taken[..., None]
        return mixed, 1.0 - ops.mean(taken, axis=(1, 2))


def _span(length: Any, place: Any, side: Any) -> Any:
    """bool[B, length]: the cells of a stretch of `side` (a share of the length) at `place` (0 first, 1 last)."""
    position = (ops.cast(ops.arange(length), "float32")[None] + 0.5) / ops.cast(length, "float32")
    start = place * (1.0 - side)
    return (position >= start[:, None]) & (position < (start + side)[:, None])
