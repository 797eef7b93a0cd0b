"""Photos and titles that no shop of this kind has, for asking whether a bundle knows what it does not know.

Owns the generators. None of them is one that training shows as unfamiliar (`scripts.outliers`), except plain noise and
random letters, which every model should know and which are told apart in the figures.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Photo = NDArray[np.uint8]
_TRADES = (
    ("used", "certified", "low mileage", "one owner"),
    ("diesel hatchback 1.6", "petrol sedan automatic", "pickup truck 4x4", "electric scooter 50 km"),
    ("with service history", "new tyres", "insurance until march", "finance available"),
)
_HOMES = (
    ("sunny", "renovated", "spacious", "quiet"),
    ("two bedroom flat", "studio apartment", "terraced house", "farm land"),
    ("near the station", "with garden and garage", "on the third floor", "for rent from june"),
)
_DISHES = (
    ("spicy", "homemade", "grilled", "vegetarian"),
    ("lentil soup", "chicken biryani", "mushroom pizza", "apple pie"),
    ("with rice", "family portion", "gluten free", "served hot until ten"),
)
_OFFICE = (
    ("quarterly", "signed", "draft", "annual"),
    ("tax return form", "lease contract", "meeting minutes", "invoice number 4417"),
    ("attached as pdf", "for review", "due on friday", "second reminder"),
)


def noise_photos(count: int, height: int, width: int, seed: int) -> Photo:
    """uint8[count, height, width, 3] of independent pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def gibberish_titles(count: int, seed: int) -> list[str]:
    """Words of random letters."""
    letters = random.Random(seed)
    return [
        " ".join(
            "".join(letters.choices("bcdfghjklmnpqrstvwxzaeiou", k=letters.randint(3, 10)))
            for _ in range(letters.randint(2, 6))
        )
        for _ in range(count)
    ]


def titles_of_other_trades(count: int, seed: int) -> list[str]:
    """Plain English of cars, homes, dishes and offices."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(words) for words in rng.choice((_TRADES, _HOMES, _DISHES, _OFFICE))) for _ in range(count)]


def drawn_photos(count: int, height: int, width: int, seed: int) -> dict[str, Photo]:
    """uint8[count, height, width, 3] per kind of picture: what other trades and idle cameras send."""
    kinds: dict[str, Callable[[np.random.Generator, int, int], Image.Image]] = {
        "landscapes": _landscape,
        "pages of text": _page,
        "charts": _chart,
        "mosaics": _mosaic,
        "plates of food": _plate,
    }
    result = {}
    for number, (name, draw) in enumerate(kinds.items()):
        rng = np.random.default_rng([seed, number])
        pictures = [draw(rng, 4 * width, 4 * height).resize((width, height), Image.Resampling.BICUBIC) for _ in range(count)]
        result[name] = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return result


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def _landscape(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Sky, sun, three rows of hills, each by a random walk."""
    top, bottom = np.array(_colour(rng, 80, 200)) * (0.5, 0.8, 1.2), np.array(_colour(rng, 150, 255))
    share = np.linspace(0, 1, height)[:, None, None]
    sky = np.clip(top * (1 - share) + bottom * share, 0, 255) * np.ones((1, width, 1))
    image = Image.fromarray(sky.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    x, y, r = int(rng.integers(width)), int(rng.integers(height // 2)), int(rng.integers(width // 20, width // 6))
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 240, 200))
    for row in range(3):
        walk = np.convolve(np.cumsum(rng.normal(0, 0.02 * height, width + 20)), np.ones(21) / 21, "valid")
        line = height * (0.4 + 0.2 * row) + walk - walk.mean()
        shade = np.array(_colour(rng, 20, 160)) * (0.6, 1.0, 0.5) * (1 - 0.2 * row)
        points = [(0, height), *zip(range(width), line.tolist(), strict=False), (width, height)]
        draw.polygon(points, fill=tuple(int(value) for value in shade))
    return image.filter(ImageFilter.GaussianBlur(1))


def _page(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A photographed document: lines of letters, a heading, a little askew."""
    ground = int(rng.integers(200, 256))
    image = Image.new("RGB", (width, height), (ground, ground, int(ground * rng.uniform(0.85, 1))))
    draw = ImageDraw.Draw(image)
    font, margin = ImageFont.load_default(size=max(6, height // 28)), width // 12
    ink = _colour(rng, 0, 80)
    for line in range(2, 24):
        if rng.random() < 0.12:
            continue
        letters = "".join(rng.choice(list("abcdefghijklmnoprstuvw   "), 60))
        draw.text((margin, line * height // 25), letters[: int(rng.integers(15, 40))], fill=ink, font=font)
    draw.rectangle((margin, height // 30, int(width * rng.uniform(0.4, 0.9)), height // 16), fill=ink)
    return image.rotate(float(rng.normal(0, 3)), Image.Resampling.BICUBIC, fillcolor=_colour(rng, 40, 200))


def _chart(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A bar chart with axes, as on a screen."""
    image = Image.new("RGB", (width, height), (255, 255, 255) if rng.random() < 0.7 else (30, 30, 40))
    draw = ImageDraw.Draw(image)
    left, floor = width // 8, height - height // 8
    for y in range(height // 8, floor, height // 8):
        draw.line((left, y, width, y), fill=(150, 150, 150))
    bars = int(rng.integers(3, 12))
    step = (width - left) / bars
    one_colour = _colour(rng)
    for bar in range(bars):
        top = int(rng.uniform(height / 8, floor - 4))
        colour = one_colour if bars > 6 else _colour(rng)
        draw.rectangle((left + bar * step + step * 0.15, top, left + (bar + 1) * step - step * 0.15, floor), fill=colour)
    draw.line((left, height // 10, left, floor, width, floor), fill=(90, 90, 90), width=3)
    return image


def _mosaic(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Cells around random points, with dark joints: paving, leaves, cracked earth."""
    points = rng.uniform(0, 1, (int(rng.integers(12, 60)), 2)) * (height // 2, width // 2)
    y, x = np.mgrid[0 : height // 2, 0 : width // 2]
    distance = np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1])
    nearest = np.sort(distance, axis=2)
    base = np.array(_colour(rng, 40, 220))
    colours = np.clip(base + rng.normal(0, 30, (len(points), 3)), 0, 255)
    joint = (nearest[..., 1] - nearest[..., 0] < 2)[..., None]
    return Image.fromarray(np.where(joint, base * 0.3, colours[distance.argmin(axis=2)]).astype(np.uint8))


def _plate(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A round plate on a cloth, with a heap of coloured bits."""
    image = Image.new("RGB", (width, height), _colour(rng, 30, 230))
    draw = ImageDraw.Draw(image)
    r, x, y = int(width * rng.uniform(0.35, 0.48)), width // 2, height // 2
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(235, 235, 230))
    draw.ellipse((x - r * 0.8, y - r * 0.8, x + r * 0.8, y + r * 0.8), fill=(215, 215, 212))
    palette = [_colour(rng, 20, 230) for _ in range(3)]
    for _ in range(int(rng.integers(40, 160))):
        angle, far, size = rng.uniform(0, 2 * np.pi), r * 0.6 * np.sqrt(rng.random()), rng.uniform(0.03, 0.12) * r
        cx, cy = x + far * np.cos(angle), y + far * np.sin(angle)
        shade = np.array(palette[rng.integers(3)]) * rng.uniform(0.7, 1.1)
        draw.ellipse((cx - size, cy - size * 0.7, cx + size, cy + size * 0.7), fill=tuple(int(min(255, v)) for v in shade))
    return image.filter(ImageFilter.GaussianBlur(2))
