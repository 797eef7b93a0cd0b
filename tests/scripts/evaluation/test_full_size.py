"""Full-size files have the product's true shape, in every format the service reads."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from app.engine.images import decode_photo
from scripts.evaluation.full_size import DETAILED, FULL_HEIGHT, encoded_sizes


def squashed() -> bytes:
    """A circle's photo of 168x224, squashed to 224x224."""
    image = Image.new("RGB", (168, 224), (255, 255, 255))
    pixels = np.array(image)
    y, x = np.mgrid[0:224, 0:168]
    pixels[np.hypot(y - 112, x - 84) < 60] = (200, 30, 30)
    file = BytesIO()
    Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def test_the_squash_is_undone_and_the_formats_are_three() -> None:
    files = encoded_sizes(squashed(), 0.75)
    shapes = {}
    for name, data in files.items():
        with Image.open(BytesIO(data)) as image:
            shapes[name] = (image.format, image.size)
    assert shapes.pop(DETAILED) == ("JPEG", (168, 224))
    assert {size for _, size in shapes.values()} == {(1080, FULL_HEIGHT)}
    assert {kind for kind, _ in shapes.values()} == {"JPEG", "PNG", "WEBP"}


def test_all_sizes_decode_to_nearly_the_same_pixels() -> None:
    decoded = [
        decode_photo(data, height=80, width=60, max_pixels=10**8).astype(int)
        for data in encoded_sizes(squashed(), 0.75).values()
    ]
    for other in decoded[1:]:
        assert np.abs(decoded[0] - other).mean() < 2


def test_without_an_aspect_ratio_the_shape_is_the_files() -> None:
    with Image.open(BytesIO(encoded_sizes(squashed(), None)[DETAILED])) as image:
        assert image.size == (224, 224)
