"""A photo is sized up from its header: dimensions, passes and memory, without decoding and without trusting it."""

from __future__ import annotations

import io
import struct
import time
from contextlib import suppress

import pytest
from PIL import Image

from app.engine.photo_header import PhotoHeader, is_photo, read_photo_header
from scripts.soak.photo_corpus import (
    drawing,
    encode,
    hostile_photos,
    many_scans,
    mutations,
    png,
    valid_photos,
    webp,
    webp_chunk,
)

SIDE = 160
MEGAPIXELS_50 = (6120, 8160)


def header_of(data: bytes) -> PhotoHeader:
    header = read_photo_header(data, side=SIDE)
    assert header is not None
    return header


def enlarged(name: str) -> bytes:
    """A valid photo whose header names 50 megapixels."""
    data, (height, width) = valid_photos()[name], MEGAPIXELS_50
    if name.endswith(".jpg"):
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]
    if name.endswith(".png"):
        return data[:16] + struct.pack(">II", width, height) + data[24:]
    return webp(webp_chunk(b"VP8X", bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")))


@pytest.mark.parametrize("name", valid_photos())
def test_every_photo_has_the_size_that_pillow_sees(name: str) -> None:
    data = valid_photos()[name]
    header = header_of(data)
    with Image.open(io.BytesIO(data)) as image:
        assert (header.width, header.height) == image.size
    assert header.pixels == header.width * header.height
    assert is_photo(data)


def test_scans_are_counted() -> None:
    photos = valid_photos()
    plain = header_of(photos["progressive.jpg"]).scans
    assert plain == photos["progressive.jpg"].count(b"\xff\xda") == 10
    assert header_of(many_scans(500)).scans == plain - 1 + 500
    assert header_of(photos["baseline.jpg"]).scans == header_of(photos["rgb.png"]).scans == 1
    # What looks like a scan in a thumbnail, a comment or behind the end is none.
    comment = encode(drawing(), "JPEG", progressive=True, comment=b"\xff\xda" * 1000)
    assert header_of(comment).scans == plain
    assert header_of(photos["progressive.jpg"] + photos["progressive.jpg"]).scans == plain


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        # Megabytes, from what the decoder took for 50 megapixels of that kind.
        ("baseline.jpg", 3, 8),
        ("progressive.jpg", 150, 160),
        ("cmyk-progressive.jpg", 400, 410),
        ("rgb.png", 200, 210),
        ("rgba.png", 200, 230),
        ("palette.png", 50, 65),
        ("i16.png", 100, 125),
        ("lossy.webp", 810, 1010),
    ],
)
def test_memory_is_told_from_the_header(name: str, least: int, most: int) -> None:
    assert least <= header_of(enlarged(name)).decode_bytes / 1e6 <= most


def test_a_wide_strip_is_not_scaled_while_it_is_decoded() -> None:
    data = enlarged("baseline.jpg")
    at = data.find(b"\xff\xc0")
    strip = data[: at + 5] + struct.pack(">HH", 200, 65_000) + data[at + 9 :]
    assert header_of(strip).decode_bytes == 200 * 65_000 * 4


def test_more_parts_than_any_photo_has_cannot_be_sized_up() -> None:
    hostile = dict(hostile_photos())
    for name in ("many-exif.jpg", "many-comments.jpg", "many-chunks.png", "many-chunks.webp"):
        assert read_photo_header(hostile[name], side=SIDE) is None


@pytest.mark.parametrize("name", ["baseline.jpg", "rgb.png"])
def test_a_file_that_ends_before_its_picture_says_so(name: str) -> None:
    data = valid_photos()[name]
    with pytest.raises(EOFError):
        read_photo_header(data[:20], side=SIDE)


def test_nothing_but_an_early_end_is_raised() -> None:
    for data in mutations(3000, seed=11):
        try:
            header = read_photo_header(data, side=SIDE)
        except EOFError:
            continue
        assert header is None or (header.pixels >= 0 and header.scans >= 0 and header.decode_bytes >= 0)


def test_ten_megabytes_of_anything_are_sized_up_in_no_time() -> None:
    size = 10 * 1024 * 1024
    progressive = valid_photos()["progressive.jpg"]
    bodies = (
        progressive[:-2] + b"\xff\x00" * (size // 2),
        progressive[:-2] + b"\xff\xda\x00\x02" * (size // 4),
        b"\xff\xd8" + b"\xff" * size,
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * (size // 4),
        png(8, 8, 8, 2, b"", b"\0\0\0\0teSt\0\0\0\0" * (size // 12)),
    )
    for body in bodies:
        best_s = counting_s = 1.0
        for _ in range(3):
            started = time.thread_time()
            with suppress(EOFError):
                read_photo_header(body, side=SIDE)
            best_s = min(best_s, time.thread_time() - started)
            # A yardstick for machines that are slow, or shared: a walk over the same bytes.
            started = time.thread_time()
            body.count(b"\xff")
            counting_s = min(counting_s, time.thread_time() - started)
        assert best_s < max(0.1, 15 * counting_s), body[-8:]
