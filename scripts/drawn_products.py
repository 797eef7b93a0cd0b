"""Product pictures drawn by code, with titles: samples for the README, the clients and the golden answers.

Owns a handful of simple drawings on white, as shop photos are. No photo of any dataset is ever shipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
_SIDE = 600, 800


@dataclass(frozen=True)
class DrawnProduct:
    """`encoded` is a 600x800 JPEG (a digit: a 280x280 PNG)."""

    name: str
    title: str
    encoded: bytes


def _shirt(draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    shade = tuple(int(c * 0.8) for c in colour)
    draw.polygon([(205, 190), (395, 190), (440, 215), (415, 650), (185, 650), (160, 215)], fill=colour)
    draw.polygon([(162, 214), (70, 370), (150, 415), (195, 330)], fill=colour)
    draw.polygon([(438, 214), (530, 370), (450, 415), (405, 330)], fill=colour)
    draw.ellipse([240, 160, 360, 235], fill=shade)
    draw.ellipse([250, 155, 350, 220], fill=(255, 255, 255))
    for x in (195, 405):
        draw.line([(x, 330), (x - 6 if x < 300 else x + 6, 640)], fill=shade, width=3)


def _shoe(draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    draw.polygon([(90, 360), (190, 350), (250, 400), (400, 455), (500, 480), (520, 520), (85, 520)], fill=colour)
    draw.rounded_rectangle([75, 515, 530, 555], 18, fill=(245, 245, 245), outline=(60, 60, 60), width=3)
    for i in range(5):
        x = 235 + 32 * i
        draw.line([(x, 395 + 12 * i), (x - 28, 430 + 12 * i)], fill=(250, 250, 250), width=8)


def _bag(draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    shade = tuple(int(c * 0.7) for c in colour)
    draw.arc([200, 170, 400, 480], 180, 360, fill=shade, width=16)
    draw.polygon([(130, 330), (470, 330), (510, 620), (90, 620)], fill=colour)
    draw.polygon([(130, 330), (470, 330), (478, 390), (122, 390)], fill=shade)
    draw.rectangle([285, 375, 315, 410], fill=(210, 180, 90))


def _watch(draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    draw.polygon([(250, 90), (350, 90), (365, 710), (235, 710)], fill=colour)
    draw.ellipse([185, 285, 415, 515], fill=(180, 180, 185))
    draw.ellipse([205, 305, 395, 495], fill=(20, 20, 25))
    draw.line([(300, 400), (300, 330)], fill=(255, 255, 255), width=6)
    draw.line([(300, 400), (350, 420)], fill=(255, 255, 255), width=6)


def _trousers(draw: ImageDraw.ImageDraw, colour: Colour) -> None:
    draw.polygon([(200, 100), (400, 100), (440, 700), (330, 700), (300, 300), (270, 700), (160, 700)], fill=colour)
    draw.rectangle([200, 95, 400, 125], fill=tuple(int(c * 0.75) for c in colour))


_PRODUCTS: tuple[tuple[str, str, Callable[[ImageDraw.ImageDraw, Colour], None], Colour], ...] = (
    ("grey-tshirt", "Puma Men Grey T-shirt", _shirt, (128, 130, 132)),
    ("red-tshirt", "Nike Women Red Tshirt", _shirt, (196, 32, 40)),
    ("black-shoe", "Adidas Men Black Sports Shoes", _shoe, (30, 30, 32)),
    ("brown-handbag", "Baggit Women Brown Handbag", _bag, (128, 74, 40)),
    ("black-watch", "Fastrack Men Black Dial Watch", _watch, (35, 33, 32)),
    ("blue-jeans", "Levis Men Blue Jeans", _trousers, (52, 78, 128)),
)


def draw_products() -> list[DrawnProduct]:
    """The sample products, always the same bytes for the same Pillow."""
    return [DrawnProduct(name, title, _encode(shape, colour)) for name, title, shape, colour in _PRODUCTS]


def draw_digits() -> list[DrawnProduct]:
    """White digits on black, as MNIST has them."""
    drawn = []
    font = ImageFont.load_default(size=200)
    for digit in "0123456789":
        image = Image.new("L", (280, 280), 0)
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = draw.textbbox((0, 0), digit, font=font)
        draw.text((140 - (left + right) / 2, 140 - (top + bottom) / 2), digit, fill=255, font=font, stroke_width=4)
        buffer = BytesIO()
        image.filter(ImageFilter.GaussianBlur(3)).save(buffer, "PNG", optimize=True)
        drawn.append(DrawnProduct(f"digit-{digit}", "", buffer.getvalue()))
    return drawn


def _encode(shape: Callable[[ImageDraw.ImageDraw, Colour], None], colour: Colour) -> bytes:
    image = Image.new("RGB", _SIDE, (255, 255, 255))
    shape(ImageDraw.Draw(image), colour)
    buffer = BytesIO()
    image.filter(ImageFilter.GaussianBlur(1.2)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.drawn_products",
        description="Write the sample pictures, drawn by code.\n\nexample: python -m scripts.drawn_products docs/samples",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to write them")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for product in draw_products():
        (folder / f"{product.name}.jpg").write_bytes(product.encoded)
    for digit in draw_digits():
        (folder / f"{digit.name}.png").write_bytes(digit.encoded)
    print(f"{len(_PRODUCTS) + 10} pictures in {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
