"""Photos of every kind come out as the same small picture, and what is no photo is refused by name."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app.engine.errors import ImageTooLargeError, ItemError, UndecodableImageError, UnsupportedImageTypeError
from app.engine.images import decode_photo, fit_photo
from scripts.drawn_products import draw_products

HEIGHT, WIDTH = 80, 60


def decode(data: bytes, *, height: int = HEIGHT, width: int = WIDTH, max_pixels: int = 50_000_000) -> NDArray[np.uint8]:
    return decode_photo(data, height=height, width=width, max_pixels=max_pixels)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def photo(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """The first drawn product, asymmetric in both directions, at a size."""
    return _drawn().resize((width, height), Image.Resampling.BICUBIC)


@cache
def _drawn() -> Image.Image:
    return Image.open(io.BytesIO(draw_products()[2].encoded))


def png_header(height: int, width: int) -> bytes:
    """A PNG that names its size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def mean_difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())


# ---- geometry


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_a_photo_of_the_exact_size_passes_through_unchanged(image_format: str) -> None:
    original = photo()
    decoded = decode(encode(original, image_format, lossless=True))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, np.asarray(original))


@pytest.mark.parametrize(("height", "width", "bars"), [(100, 100, "above and below"), (400, 100, "left and right")])
def test_another_shape_is_kept_by_padding_with_the_colour_of_the_border(height: int, width: int, bars: str) -> None:
    image = Image.new("RGB", (width, height), (10, 200, 30))
    image.paste((250, 0, 0), (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    decoded = decode(encode(image, "PNG"))
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    red = (decoded[..., 0] > 130) & (decoded[..., 1] < 100)
    red_height, red_width = int(red.any(axis=1).sum()), int(red.any(axis=0).sum())
    assert red_height / red_width == pytest.approx(height / width, rel=0.12)
    edge = decoded[0] if bars == "above and below" else decoded[:, 0]
    assert np.abs(edge.astype(int) - (10, 200, 30)).max() <= 1
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert abs(rows[0] + rows[-1] - (HEIGHT - 1)) <= 1, "centred"
    assert abs(columns[0] + columns[-1] - (WIDTH - 1)) <= 1, "centred"


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 8))
def test_every_size_fits(height: int, width: int, orientation: int) -> None:
    image = Image.new("RGB", (width, height), (7, 77, 177))
    fitted = fit_photo(image, height=20, width=16, orientation=orientation)
    assert fitted.shape == (20, 16, 3)
    assert (fitted == (7, 77, 177)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_show_the_same_picture(orientation: int) -> None:
    upright = photo(160, 120)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = decode(encode(upright, "PNG"))
    for image_format in ("PNG", "WEBP"):
        shown = decode(encode(stored, image_format, exif=exif, lossless=True))
        assert mean_difference(shown, expected) < 0.05
    shown = decode(encode(stored, "JPEG", exif=exif, quality=95))
    assert mean_difference(shown, expected) < 2


@pytest.mark.parametrize("side", [(1440, 1080), (1000, 333), (900, 1600)])
def test_the_fast_jpeg_path_is_close_to_a_full_decode(side: tuple[int, int]) -> None:
    encoded = encode(photo(*side), "JPEG", quality=85)
    full = Image.open(io.BytesIO(encoded))
    full.load()
    assert mean_difference(decode(encoded), fit_photo(full, height=HEIGHT, width=WIDTH)) < 1


@pytest.mark.parametrize("number", range(6))
def test_a_big_photo_and_its_thumbnail_look_the_same(number: int) -> None:
    drawn = Image.open(io.BytesIO(draw_products()[number].encoded))
    big = drawn.resize((1080, 1440), Image.Resampling.BICUBIC)
    thumbnail = drawn.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    # At 60x80 the JPEG's own blocks would be the larger difference.
    assert mean_difference(decode(encode(big, "JPEG", quality=90)), decode(encode(thumbnail, "PNG"))) < 1


# ---- colour


def test_transparency_lies_on_white() -> None:
    image = Image.new("RGBA", (WIDTH, HEIGHT), (200, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 30, HEIGHT))
    image.paste((0, 0, 0, 128), (45, 0, 60, HEIGHT))
    for image_format in ("PNG", "WEBP"):
        decoded = decode(encode(image, image_format, lossless=True, exact=True))
        assert tuple(decoded[40, 10]) == (200, 0, 0)
        assert tuple(decoded[40, 38]) == (255, 255, 255)
        assert np.abs(decoded[40, 50].astype(int) - 127).max() <= 1


def test_a_transparent_palette_entry_and_a_transparent_colour_lie_on_white() -> None:
    colours = photo().convert("RGB")
    colours.paste((1, 2, 3), (0, 0, 20, 20))
    keyed = encode(colours, "PNG", transparency=(1, 2, 3))
    palette = Image.new("P", (WIDTH, HEIGHT), 1)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.paste(0, (0, 0, 20, 20))
    indexed = encode(palette, "PNG", transparency=0)
    assert (decode(keyed)[:20, :20] == 255).all()
    assert (decode(indexed)[:20, :20] == 255).all()
    assert tuple(decode(indexed)[60, 40]) == (50, 60, 70)


def test_grey_photos_of_every_depth_keep_their_brightness() -> None:
    ramp = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    expected = np.repeat(ramp[..., None], 3, axis=2)
    grey = Image.fromarray(ramp)
    deep = Image.fromarray(ramp.astype(np.uint16) * 257)
    translucent = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    for image in (grey, deep, translucent):
        assert np.array_equal(decode(encode(image, "PNG")), expected)
    assert mean_difference(decode(encode(grey, "JPEG", quality=95)), expected) < 1
    black_and_white = Image.fromarray(ramp > 127)
    assert set(np.unique(decode(encode(black_and_white, "PNG")))) == {0, 255}


def test_palette_and_cmyk_photos_keep_their_colours() -> None:
    original = photo()
    indexed = original.quantize(64)
    assert np.array_equal(decode(encode(indexed, "PNG")), np.asarray(indexed.convert("RGB")))
    printed = decode(encode(original.convert("CMYK"), "JPEG", quality=95))
    assert mean_difference(printed, np.asarray(original)) < 4


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation_counts(image_format: str) -> None:
    first, second = photo(), Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 255))
    animated = encode(first, image_format, save_all=True, append_images=[second], duration=100, lossless=True)
    assert getattr(Image.open(io.BytesIO(animated)), "n_frames", 1) == 2
    assert np.array_equal(decode(animated), np.asarray(first))


def test_a_jpeg_with_several_pictures_shows_its_first() -> None:
    """Phones write depth maps and thumbnails behind the photo."""
    several = encode(photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], quality=95)
    assert mean_difference(decode(several), decode(encode(photo(), "JPEG", quality=95))) < 0.5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(700, 900), (6000, 4), (3, 5000)])
def test_large_photos_are_narrowed_in_strips_to_the_same_pixels(
    mode: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photo(*size)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        image = image.quantize(32)
        image.info["transparency"] = 3
    else:
        image = image.convert(mode)
        if mode.endswith("A"):
            image.putalpha(photo(*size).convert("L"))
    for orientation in (1, 6):
        monkeypatch.setattr("app.engine.images._STRIP_PIXELS", 1 << 30)
        whole = fit_photo(image, height=HEIGHT, width=WIDTH, orientation=orientation)
        monkeypatch.setattr("app.engine.images._STRIP_PIXELS", 10_000)
        assert np.array_equal(fit_photo(image, height=HEIGHT, width=WIDTH, orientation=orientation), whole)


# ---- metadata


def test_broken_metadata_is_neither_reported_nor_remembered() -> None:
    """Each new wording of a warning would be a line on standard error, with numbers from the file, and stay in memory."""
    program = """
import PIL.TiffImagePlugin
from app.engine.images import decode_photo
from scripts.soak.photo_corpus import hostile_photos
wide = dict(hostile_photos())["wide-exif.jpg"]
assert decode_photo(wide, height=8, width=8, max_pixels=100).shape == (8, 8, 3)
remembered = getattr(PIL.TiffImagePlugin, "__warningregistry__", {})
assert remembered.keys() <= {"version"}, len(remembered)
"""
    root = Path(__file__).parent.parent.parent
    run = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


def test_metadata_never_matters() -> None:
    original = photo()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0131] = "x" * 5000
    extras = {"exif": exif, "icc_profile": b"not a profile" * 20, "dpi": (300, 300)}
    for image_format in ("JPEG", "PNG", "WEBP"):
        options = {"lossless": True} if image_format == "WEBP" else {}
        plain, loaded = (encode(original, image_format, **options, **e) for e in ({}, extras))
        assert plain != loaded
        assert np.array_equal(decode(plain), decode(loaded))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"", b"Exif\x00\x00", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"Exif\x00\x00" + b"\xff" * 40])
def test_a_broken_exif_block_is_no_reason_to_refuse(exif: bytes) -> None:
    plain = encode(photo(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert np.array_equal(decode(plain[:2] + segment + plain[2:]), decode(plain))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(decode(encode(photo(), "JPEG", exif=exif)), decode(encode(photo(), "JPEG")))


# ---- refusals


def test_too_many_pixels_are_refused_from_the_header_alone() -> None:
    data = png_header(20_000, 20_000)
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooLargeError) as caught:
            decode(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.field == "image"
    assert "50000000" in str(caught.value)
    assert peak_bytes < 1_000_000


def test_the_pixel_limit_is_inclusive() -> None:
    data = encode(photo(), "PNG")
    assert decode(data, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(ImageTooLargeError):
        decode(data, max_pixels=HEIGHT * WIDTH - 1)


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_other_image_types_are_refused(image_format: str) -> None:
    with pytest.raises(UnsupportedImageTypeError):
        decode(encode(photo(48, 48), image_format))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"hello, world", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"RIFF\x00\x00\x00\x00WAVE", b"%PDF-1.7"],
)
def test_what_is_no_photo_is_of_an_unsupported_type(data: bytes) -> None:
    with pytest.raises(UnsupportedImageTypeError):
        decode(data)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_photo_is_undecodable(image_format: str) -> None:
    data = encode(photo(160, 120), image_format)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(UndecodableImageError) as caught:
            decode(data[: max(12, int(len(data) * share))])
        assert caught.value.field == "image"


@pytest.mark.parametrize("signature", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x04\x00\x00\x00WEBP"])
def test_a_signature_alone_is_a_damaged_photo(signature: bytes) -> None:
    with pytest.raises(UndecodableImageError):
        decode(signature)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_photo_that_pillow_cannot_read_to_its_end_is_no_photo(image_format: str) -> None:
    """Whatever else is looked for in it first: half of the pixels, black from there on, must not pass for a photo."""
    original = encode(photo(160, 120), image_format)
    refused = 0
    for place in range(30, len(original), max(1, len(original) // 150)):
        damaged = bytearray(original)
        damaged[place] ^= 1
        try:
            with Image.open(io.BytesIO(damaged), formats=["JPEG", "PNG", "WEBP"]) as image:
                image.load()
        except Exception:
            refused += 1
            with pytest.raises(ItemError):
                decode(bytes(damaged))
    assert refused or image_format != "PNG"


@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(0, 2**32), st.integers(0, 255))
def test_any_damaged_byte_gives_a_photo_or_an_item_error(image_format: str, place: int, value: int) -> None:
    data = bytearray(_ENCODED[image_format])
    data[place % len(data)] = value
    with suppress(ItemError):
        assert decode(bytes(data), max_pixels=1_000_000).shape == (HEIGHT, WIDTH, 3)


_ENCODED = {image_format: encode(photo(), image_format) for image_format in ("JPEG", "PNG", "WEBP")}
