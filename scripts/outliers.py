"""Made photos and titles that no catalogue contains; the model learns from them what the unfamiliar looks like.

Owns the generators, all drawn by code. Nothing here imitates any test set: digits and photos of other trades are left
for evaluation. Used in training (outlier exposure) and never to set a threshold.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Photo = NDArray[np.uint8]

_SCRIPTS = ((0x4E00, 0x9FA5), (0x0410, 0x044F), (0x05D0, 0x05EA), (0x0905, 0x0939), (0x3041, 0x3096), (0x1F300, 0x1F5FF))


def outlier_photo(rng: np.random.Generator, height: int, width: int, familiar: Photo, *, strokes: bool) -> Photo:
    """uint8[height, width, 3]. `familiar` is a real photo, used scrambled; `strokes` allows bare line drawings, which
    a model of handwriting must not learn to refuse."""
    kind = int(rng.integers(9 if strokes else 7))
    if kind == 0:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == 1:
        return _coarse_noise(rng, height, width)
    if kind == 2:
        return _pattern(rng, height, width)
    if kind == 3:
        return _scrambled(rng, familiar)
    if kind == 4:
        return np.asarray(255 - familiar, np.uint8) if strokes else _coarse_noise(rng, height, width)
    if kind in (5, 6):
        return _scene(rng, height, width)
    return _strokes(rng, height, width)


def made_ground(rng: np.random.Generator, height: int, width: int) -> Photo:
    """uint8[height, width, 3]: something for a product to lie on: a blurred scene, a pattern, or smooth noise."""
    kind = int(rng.integers(3))
    if kind == 0:
        ground = _scene(rng, height, width)
    else:
        ground = _pattern(rng, height, width) if kind == 1 else _coarse_noise(rng, height, width)
    if rng.random() < 0.7:  # floors, tables and cloth are seldom vivid
        calm = ground.mean(axis=(0, 1)) * rng.uniform(0.3, 0.8) + rng.uniform(40, 130)
        ground = np.clip(calm + (ground - calm) * rng.uniform(0.05, 0.5), 0, 255).astype(np.uint8)
    return ground


def strange_thing(rng: np.random.Generator, height: int, width: int, familiar: Photo) -> Photo:
    """uint8[height, width, 3]: something that is no product, lying where one might: round, lobed or cornered, with others
    on it, each of one colour, a pattern, noise or scraps of `familiar`."""
    plain = np.full((height, width, 3), rng.integers(225, 256), np.uint8)
    scene = Image.fromarray(made_ground(rng, height, width) if rng.random() < 0.6 else plain)
    for number in range(int(rng.integers(1, 5))):
        outline = _outline(rng, height, width)
        if number:  # on the first: smaller, and somewhere else
            size, away = rng.uniform(0.2, 0.7), rng.uniform(-0.2, 0.2, 2)
            middle = outline.mean(axis=0)
            outline = middle + (outline - middle) * size + away * (width, height) * (1 - size)
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in outline], fill=255)
        scene.paste(Image.fromarray(_filling(rng, height, width, familiar)), (0, 0), mask.filter(ImageFilter.GaussianBlur(0.6)))
    return as_taken(rng, scene)


def as_taken(rng: np.random.Generator, scene: Image.Image) -> Photo:
    """uint8[H, W, 3] of a scene as a camera in a hand takes it: softer, lit and tinted, with noise."""
    if rng.random() < 0.6:
        scene = scene.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 1.0))))
    light = rng.uniform(0.8, 1.12) * (1 + np.array([1, 0, -1]) * rng.uniform(-0.08, 0.08))
    pixels = np.asarray(scene, np.float64) * light
    return np.clip(pixels + rng.normal(0, rng.uniform(0, 5), pixels.shape), 0, 255).astype(np.uint8)


def outlier_title(rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Letters at random, keyboard runs, foreign scripts, byte soup, or known words with their letters shuffled."""
    match rng.randrange(6):
        case 0:
            return " ".join(_letters(rng, "abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 7)))
        case 1:
            rows = ["qwertyuiop", "asdfghjkl", "zxcvbnm"]
            runs = []
            for _ in range(rng.randint(1, 5)):
                row = rng.choice(rows)
                start = rng.randrange(len(row) - 3)
                runs.append(row[start : start + rng.randint(3, 7)])
            return " ".join(runs)
        case 2:
            low, high = rng.choice(_SCRIPTS)
            return " ".join(
                "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8))) for _ in range(rng.randint(1, 5))
            )
        case 3:
            return "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(4, 50)))
        case 4:
            return " ".join(_letters(rng, "0123456789abcdef-_/") for _ in range(rng.randint(1, 6)))
        case _:
            words = [rng.choice(vocabulary) for _ in range(rng.randint(2, 7))] if vocabulary else ["x"]
            return " ".join("".join(rng.sample(word, len(word))) for word in words)


def _outline(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """float64[48, 2], points (x, y) round the middle."""
    angle, radius = np.linspace(0, 2 * np.pi, 48, endpoint=False), np.ones(48)
    kind = int(rng.integers(3))
    if kind == 1:
        for waves in range(2, 7):
            radius += rng.normal(0, 0.18 / np.sqrt(waves)) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    elif kind == 2:
        corners = int(rng.integers(3, 8))
        from_edge = (angle + rng.uniform(0, 2 * np.pi)) % (2 * np.pi / corners) - np.pi / corners
        radius = np.cos(np.pi / corners) / np.cos(from_edge)
    middle, half = rng.uniform(0.4, 0.6, 2) * (width, height), rng.uniform(0.15, 0.48, 2) * (width, height)
    return np.asarray(middle + half * (np.clip(radius, 0.25, 1.7) * [np.cos(angle), np.sin(angle)]).T)


def _filling(rng: np.random.Generator, height: int, width: int, familiar: Photo) -> Photo:
    kind = int(rng.integers(5))
    if kind == 0:
        return np.full((height, width, 3), _colour(rng), np.uint8)
    if kind == 1:
        return _scrambled(rng, familiar)
    return (_coarse_noise, _pattern, _scene)[kind - 2](rng, height, width)


def _letters(rng: random.Random, alphabet: str) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(2, 11)))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b


def _coarse_noise(rng: np.random.Generator, height: int, width: int) -> Photo:
    cells = int(rng.integers(2, 16))
    noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    resample = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(noise).resize((width, height), resample))


def _pattern(rng: np.random.Generator, height: int, width: int) -> Photo:
    y, x = np.mgrid[0:height, 0:width]
    angle, period = rng.random() * np.pi, rng.uniform(3, 25)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    if rng.random() < 0.5:
        wave = wave * np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    if rng.random() < 0.5:
        wave = np.sign(wave)
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    mix = ((wave + 1) / 2)[..., None]
    return np.asarray(mix * first + (1 - mix) * second).astype(np.uint8)


def _scrambled(rng: np.random.Generator, familiar: Photo) -> Photo:
    height, width = familiar.shape[:2]
    rows, columns = int(rng.integers(3, 7)), int(rng.integers(3, 6))
    tile_h, tile_w = height // rows, width // columns
    tiles = [
        familiar[r * tile_h : (r + 1) * tile_h, c * tile_w : (c + 1) * tile_w] for r in range(rows) for c in range(columns)
    ]
    order = rng.permutation(len(tiles))
    result = np.array(familiar)
    for slot, tile in enumerate(order):
        r, c = divmod(slot, columns)
        result[r * tile_h : (r + 1) * tile_h, c * tile_w : (c + 1) * tile_w] = tiles[tile]
    return result


def _scene(rng: np.random.Generator, height: int, width: int) -> Photo:
    """Blurred shapes on a gradient: the statistics of a photo of somewhere, with no product in it."""
    image = Image.fromarray(_coarse_noise(rng, height, width))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 20))):
        points = [(int(rng.integers(-10, width + 10)), int(rng.integers(-10, height + 10))) for _ in range(2)]
        box = [min(points[0][0], points[1][0]), min(points[0][1], points[1][1])]
        box += [max(points[0][0], points[1][0]), max(points[0][1], points[1][1])]
        shape = int(rng.integers(3))
        if shape == 0:
            draw.ellipse(box, fill=_colour(rng))
        elif shape == 1:
            draw.rectangle(box, fill=_colour(rng))
        else:
            corners = [(int(rng.integers(0, width)), int(rng.integers(0, height))) for _ in range(int(rng.integers(3, 6)))]
            draw.polygon(corners, fill=_colour(rng))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.5))))
    noise = rng.normal(0, rng.uniform(0, 20), (height, width, 3))
    return np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8)


def _strokes(rng: np.random.Generator, height: int, width: int) -> Photo:
    """A few thick curves on a plain ground, light on dark or dark on light."""
    dark_ground = rng.random() < 0.6
    ground = int(rng.integers(0, 40)) if dark_ground else int(rng.integers(215, 256))
    ink = 255 - ground if rng.random() < 0.7 else int(rng.integers(0, 256))
    image = Image.new("L", (width * 2, height * 2), ground)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 4))):
        at = np.array([rng.uniform(0.2, 0.8) * width * 2, rng.uniform(0.2, 0.8) * height * 2])
        direction = rng.uniform(0, 2 * np.pi)
        bend = rng.normal(0, 0.25)
        points = [tuple(at)]
        for _ in range(int(rng.integers(4, 18))):
            direction += bend + rng.normal(0, 0.15)
            at = at + np.array([np.cos(direction), np.sin(direction)]) * min(height, width) * 0.14
            points.append(tuple(at))
        draw.line(points, fill=ink, width=int(rng.integers(4, max(6, width // 4))), joint="curve")
    grey = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.repeat(grey[..., None], 3, axis=2)
