"""The shipped fashion model sees one product in one photo, however the file holds it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.service import ROOT, Service

LEAST_COSINE = 0.99
_UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def sample() -> Image.Image:
    with Image.open(ROOT / "docs" / "samples" / "grey-tshirt.jpg") as image:
        return image.convert("RGB").resize((600, 800), Image.Resampling.BICUBIC)


def turned() -> Iterator[tuple[str, bytes]]:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = sample()
        yield f"EXIF {orientation}", encoded(image.transpose(_UNDO[orientation]) if orientation in _UNDO else image, exif=exif)


def other_pixels() -> Iterator[tuple[str, bytes]]:
    """The same photo in other formats and depths that keep its colours."""
    image = sample()
    opaque = image.convert("RGBA")
    yield "progressive", encoded(image, progressive=True)
    yield "CMYK", encoded(image.convert("CMYK"))
    yield "PNG", encoded(image, "PNG")
    yield "PNG with alpha", encoded(opaque, "PNG")
    yield "PNG palette", encoded(image.quantize(256), "PNG")
    yield "WebP", encoded(image, "WEBP", quality=90)
    yield "WebP animation", encoded(image, "WEBP", save_all=True, append_images=[Image.new("RGB", image.size, "red")])
    yield "MPO", encoded(image, "MPO", save_all=True, append_images=[Image.new("RGB", image.size, "red")])


def encoded(image: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **({"quality": 92} | options if image_format == "JPEG" else options))
    return buffer.getvalue()


@pytest.mark.parametrize("photos", [turned, other_pixels], ids=["turned", "other pixels"])
def test_one_photo_is_one_answer(shipped_service: Service, photos: Any) -> None:
    named = [("plain", encoded(sample())), *photos()]
    request = {"items": [{"image": base64.b64encode(photo).decode()} for _, photo in named], "model": "fashion"}
    classified = shipped_service.post("/v1/classify", request).json()["results"]
    embedded = shipped_service.post("/v1/embed", request).json()["results"]
    plain_labels = {name: answer.get("label") for name, answer in classified[0]["attributes"].items()}
    plain = np.array(embedded[0]["embedding"])
    for (name, _), answer, vector in zip(named, classified, embedded, strict=True):
        assert answer["attributes"]["articleType"]["label"] == plain_labels["articleType"], name
        other = np.array(vector["embedding"])
        assert np.isfinite(other).all()
        assert float(plain @ other) >= LEAST_COSINE, name


def as_srgb(p3: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Display P3 to sRGB, both of 8 bits and with sRGB's curve (CSS Color 4, the sample conversion code)."""
    primaries = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
    encoded = p3 / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4) @ primaries.T
    linear = linear.clip(0.0, 1.0)
    shown = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray((255.0 * shown).round(), np.uint8)


def test_a_photo_of_wide_gamut_is_near_enough_without_its_profile(shipped_service: Service) -> None:
    """What decision 0012 rests on: profiles are not applied."""
    paths = sorted((ROOT / "docs" / "samples").glob("*.jpg"))
    photos = []
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        photos += [encoded(Image.fromarray(pixels), "PNG"), encoded(Image.fromarray(as_srgb(pixels)), "PNG")]
    items = [{"image": base64.b64encode(photo).decode()} for photo in photos]
    results = shipped_service.post("/v1/embed", {"items": items, "model": "fashion"}).json()["results"]
    vectors = np.array([result["embedding"] for result in results])
    cosines = (vectors[::2] * vectors[1::2]).sum(axis=1)
    print(f"\nDisplay P3 read as sRGB: cosine {cosines.mean():.4f} on average, {cosines.min():.4f} at worst")  # noqa: T201
    assert cosines.min() > 0.97
