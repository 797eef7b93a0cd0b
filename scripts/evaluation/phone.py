"""P6: the same products as a phone would show them: on a busy ground, aslant, soft, tinted, squeezed by JPEG.

Owns the simulation, seeded per row. It is not the training augmentation, and no parameter was chosen by its result.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from app.engine.images import decode_photo
from app.engine.items import Pattern
from scripts.evaluation.evaluation import Evaluation
from scripts.evaluation.figures import Quality, attribute_quality, changed_quality

_SCALE = 3
"""The scene is built at this multiple of the network's input, so that blur and JPEG work on a larger picture."""
_GROUND_TOLERANCE = 24
_MAX_PIXELS = 10_000_000


def product_mask(photo: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool[H, W]: what is not the ground. The ground is whatever is like the border's median colour and connected to
    the border; a photo that is all ground, or none, counts as all product."""
    pixels = photo.astype(np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    like_border = np.abs(pixels - np.median(border, axis=0)).max(axis=2) <= _GROUND_TOLERANCE
    ground = np.zeros_like(like_border)
    ground[[0, -1]], ground[:, [0, -1]] = like_border[[0, -1]], like_border[:, [0, -1]]
    while True:
        grown = ground.copy()
        grown[1:] |= ground[:-1]
        grown[:-1] |= ground[1:]
        grown[:, 1:] |= ground[:, :-1]
        grown[:, :-1] |= ground[:, 1:]
        grown &= like_border
        if (grown == ground).all():
            break
        ground = grown
    if ground.mean() > 0.98 or not ground.any():
        return np.ones_like(ground)
    return np.asarray(~ground)


def phone_photo(photo: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """uint8[H, W, 3] of the same size, decoded by the service's own path from a JPEG."""
    rng = np.random.default_rng(seed)
    height, width = photo.shape[:2]
    big = (width * _SCALE, height * _SCALE)
    mask = Image.fromarray((product_mask(photo) * 255).astype(np.uint8), "L").resize(big, Image.Resampling.BICUBIC)
    product = Image.fromarray(photo).resize(big, Image.Resampling.BICUBIC).convert("RGBA")
    product.putalpha(mask.filter(ImageFilter.GaussianBlur(_SCALE / 2)))
    product = _aslant(product, rng)
    scene = busy_ground(rng, *big)
    shadow = Image.new("RGBA", big, (0, 0, 0, 0))
    shadow.putalpha(product.getchannel("A").point(lambda value: int(value * 0.35)))
    offset = int(rng.integers(2, 3 * _SCALE))
    scene.paste(shadow, (offset, offset), shadow.filter(ImageFilter.GaussianBlur(2 * _SCALE)))
    scene.paste(product, (0, 0), product)
    scene = scene.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.7)) * _SCALE))
    pixels = np.asarray(scene, np.float32)
    # White balance as of warm bulbs to cool shade, exposure of about half a stop either way, sensor noise.
    pixels *= np.exp(rng.normal(0, 0.06)) ** np.array([1, 0, -1], np.float32) * rng.uniform(0.75, 1.15)
    pixels += rng.normal(0, 4, pixels.shape)
    file = BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=int(rng.integers(35, 80)))
    return decode_photo(file.getvalue(), height=height, width=width, max_pixels=_MAX_PIXELS)


def busy_ground(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A table, a floor or a shelf: a gradient with boards or tiles, a few things lying about, and grain."""
    base = rng.integers(60, 220) + rng.normal(0, 18, 3)  # floors, walls and cloth are seldom vivid
    across = np.linspace(-1, 1, width)[None, :, None] * rng.normal(0, 12, 3)
    down = np.linspace(-1, 1, height)[:, None, None] * rng.normal(0, 12, 3)
    grain = rng.normal(0, 6, (height, width, 1))
    image = Image.fromarray(np.clip(base + across + down + grain, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    step = int(rng.integers(width // 8, width // 2))
    line = tuple(max(0, int(v)) for v in base * rng.uniform(0.5, 0.85))
    if rng.random() < 0.7:
        for x in range(int(rng.integers(0, step)), width, step):
            draw.line([(x, 0), (x + int(rng.integers(-8, 9)), height)], fill=line, width=int(rng.integers(1, 4)))
    if rng.random() < 0.5:
        for y in range(int(rng.integers(0, step)), height, step):
            draw.line([(0, y), (width, y)], fill=line, width=int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(3, 9))):
        x, y = int(rng.integers(-width // 6, width)), int(rng.integers(-height // 6, height))
        box = (x, y, x + int(rng.integers(width // 10, width // 3)), y + int(rng.integers(height // 10, height // 3)))
        colour = tuple(int(v) for v in (rng.integers(30, 230) + rng.integers(0, 256, 3)) / 2)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2.0))))


def _aslant(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Seen a little from the side, turned by up to 8 degrees, filling 70 to 95 % of the frame."""
    width, height = image.size
    centre = np.array([width, height]) / 2
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], float) - centre
    angle, size = rng.uniform(-0.14, 0.14), rng.uniform(0.70, 0.95)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    seen = corners @ turn.T * size + rng.normal(0, 0.03, (4, 2)) * centre + rng.uniform(-0.04, 0.04, 2) * centre + centre
    # The eight numbers that map a point of the result to one of the source, from the four corners.
    rows, targets = [], []
    for (x, y), (u, v) in zip(seen, corners + centre, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        targets += [u, v]
    numbers = np.linalg.solve(np.array(rows), np.array(targets))
    return image.transform((width, height), Image.Transform.PERSPECTIVE, tuple(numbers), Image.Resampling.BICUBIC)


def phone_photos(photos: NDArray[np.uint8], present: NDArray[np.bool_], seed: int) -> NDArray[np.uint8]:
    """`phone_photo` of every present row; absent ones stay as they are."""
    result = np.array(photos)
    chosen = np.flatnonzero(present)
    with ThreadPoolExecutor() as pool:
        for i, photo in zip(chosen, pool.map(lambda i: phone_photo(photos[i], seed + int(i)), chosen), strict=True):
            result[i] = photo
    return result


def simulated(evaluation: Evaluation) -> NDArray[np.uint8]:
    """The rows' photos through the simulation."""
    evaluation.need("image")
    assert evaluation.photos is not None
    return phone_photos(evaluation.photos, evaluation.photo_present, evaluation.seed)


def measure_phone(evaluation: Evaluation) -> Quality:
    """Figures from photo and title and from the photo alone, with `change` against the shop's own photos."""
    evaluation.need("image")
    outputs = evaluation.changed("phone simulation", photos=simulated(evaluation))
    result: Quality = {}
    patterns: tuple[Pattern, ...] = ("both", "image")
    for pattern in patterns:
        usable = evaluation.usable(pattern)
        if usable.any():
            plain = attribute_quality(evaluation.answerer, evaluation.outputs, evaluation.truth, pattern, usable)
            found = attribute_quality(evaluation.answerer, outputs, evaluation.truth, pattern, usable)
            result[pattern] = changed_quality(found, plain)
    return result
