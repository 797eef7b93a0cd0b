"""Training photos as a hand-held camera would show the product: on some ground, smaller, softer, tinted, squeezed.

Owns a change for training that says: the ground is not the product. Works at the network's own resolution, in about a
millisecond a photo. It is not the simulation that evaluation measures by (`scripts.evaluation.phone`): grounds, geometry and
light are made otherwise, so that a good figure there is not one learned by heart.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from scripts.outliers import as_taken, made_ground

Photo = NDArray[np.uint8]
_GROUND_TOLERANCE = 20


def handheld_photo(rng: np.random.Generator, photo: Photo) -> Photo:
    """uint8[H, W, 3] of the same size: the product of `photo`, cut out along its plain ground, on a made one."""
    height, width = photo.shape[:2]
    size = float(rng.uniform(0.65, 1.0))
    small = (max(4, round(width * size)), max(4, round(height * size)))
    mask = Image.fromarray((~plain_ground(photo) * 255).astype(np.uint8), "L")
    product = Image.fromarray(photo).resize(small, Image.Resampling.BILINEAR)
    mask = mask.resize(small, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(0.5))
    scene = Image.fromarray(made_ground(rng, height, width))
    at = (int(rng.integers(0, width - small[0] + 1)), int(rng.integers(0, height - small[1] + 1)))
    if rng.random() < 0.6:  # a soft shadow, so that a dark rim is nothing strange
        shadow = mask.point(lambda value: value * 0.4).filter(ImageFilter.GaussianBlur(1.5))
        scene.paste((0, 0, 0), (at[0] + int(rng.integers(-2, 3)), at[1] + int(rng.integers(0, 3))), shadow)
    scene.paste(product, at, mask)
    result = as_taken(rng, scene)
    if rng.random() < 0.5:
        file = BytesIO()
        Image.fromarray(result).save(file, "JPEG", quality=int(rng.integers(30, 90)))
        result = np.asarray(Image.open(file))
    return result


def plain_ground(photo: Photo) -> NDArray[np.bool_]:
    """bool[H, W]: the pixels that are like the border's usual colour and reached from the border along rows and columns.
    Nothing, where that would be nearly everything: a white shirt on white is better left whole."""
    pixels = photo.astype(np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    like = np.abs(pixels - np.median(border, axis=0)).max(axis=2) <= _GROUND_TOLERANCE
    # A pixel is reached when all between it and one of the four sides is ground too: no flood needed, and a hole in the
    # product (the inside of a ring) stays product.
    reached = (
        np.logical_and.accumulate(like, axis=0)
        | np.logical_and.accumulate(like[::-1], axis=0)[::-1]
        | np.logical_and.accumulate(like, axis=1)
        | np.logical_and.accumulate(like[:, ::-1], axis=1)[:, ::-1]
    )
    return reached if reached.mean() < 0.95 else np.zeros_like(reached)
