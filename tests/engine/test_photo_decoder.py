"""Whatever is sent as a photo is decoded or refused by name, the ordinary at once and the large in a process."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.engine.errors import ImageTooLargeError, ItemError, UndecodableImageError, UnsupportedImageTypeError
from app.engine.images import decode_photo
from app.engine.photo_decoder import HeavierPhotoError, PhotoDecoder, Weight
from app.engine.settings import EngineSettings
from scripts.soak.photo_corpus import drawing, encode, hostile_photos, many_scans, mutations, png, valid_photos

# As in the service, where the engine silences them: here they would be errors, and an error a refusal.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
HEIGHT, WIDTH = 80, 60
SETTINGS = EngineSettings(max_image_pixels=1_000_000, decode_thread_bytes=4 * 1024 * 1024, decode_timeout_ms=10_000)


@pytest.fixture(scope="module")
def decoder() -> Iterator[PhotoDecoder]:
    shared = PhotoDecoder(SETTINGS)
    yield shared
    shared.close()


def directly(data: bytes) -> NDArray[np.uint8]:
    return decode_photo(data, height=HEIGHT, width=WIDTH, max_pixels=SETTINGS.max_image_pixels)


def verdict(decode: Callable[[], NDArray[np.uint8]]) -> tuple[str, bytes]:
    """The error's code or `ok`, and the pixels."""
    try:
        pixels = decode()
    except ItemError as error:
        return error.code, b""
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.uint8
    return "ok", pixels.tobytes()


def assert_right(decoder: PhotoDecoder, data: bytes, name: str = "") -> str:
    """What Pillow decodes within the limits is answered with the same pixels; all else is refused by name."""
    code, pixels = verdict(lambda: decoder.decode(data, height=HEIGHT, width=WIDTH))
    expected, expected_pixels = verdict(lambda: directly(data))
    assert (code == "ok") == (expected == "ok"), (name, code, expected)
    assert pixels == expected_pixels, name
    # A header may name more pixels than are allowed and be damaged as well.
    assert code == expected or (code, expected) == ("image_too_large", "undecodable_image"), (name, code, expected)
    return code


def test_every_odd_but_valid_photo_is_answered(decoder: PhotoDecoder) -> None:
    for name, data in valid_photos().items():
        assert assert_right(decoder, data, name) == "ok", name


def test_every_lying_file_is_judged_as_pillow_would(decoder: PhotoDecoder) -> None:
    codes = Counter(assert_right(decoder, data, name) for name, data in hostile_photos())
    assert codes.keys() == {"ok", "undecodable_image", "image_too_large", "unsupported_image_type"}


def test_thousands_of_damaged_photos_are_judged_as_pillow_would(decoder: PhotoDecoder) -> None:
    codes = Counter(assert_right(decoder, data) for data in mutations(2000, seed=int(os.environ.get("PHOTO_SEED", "1"))))
    assert min(codes["ok"], codes["undecodable_image"], codes["unsupported_image_type"]) > 50


@pytest.mark.slow
def test_twenty_thousand_damaged_photos_are_judged_as_pillow_would(decoder: PhotoDecoder) -> None:
    slowest_s = 0.0
    codes: Counter[str] = Counter()
    for data in mutations(20_000, seed=2):
        started = time.monotonic()
        codes[assert_right(decoder, data)] += 1
        slowest_s = max(slowest_s, time.monotonic() - started)
    print(f"\n20,000 damaged photos: {dict(codes)}, slowest {1000 * slowest_s:.0f} ms")  # noqa: T201
    assert slowest_s < 5


def test_ordinary_photos_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.photo_decoder.PhotoProcess.decode_photo", None)
    decoder = PhotoDecoder(EngineSettings())
    camera = encode(drawing(3000, 4000), "JPEG")
    screenshot = encode(drawing(1000, 1000), "PNG")
    progressive = encode(drawing(1200, 1600), "JPEG", progressive=True)
    picture = encode(drawing(1200, 1600), "WEBP", method=0)
    for data in (camera, screenshot, progressive, picture):
        decoder.decode(data, height=HEIGHT, width=WIDTH, at_most=Weight.ORDINARY)


def plain_png(width: int, height: int) -> bytes:
    """A bit a pixel, all alike: a few kilobytes at any size."""
    return png(width, height, 1, 0, bytes((1 + (width + 7) // 8) * height))


@pytest.mark.parametrize(
    ("data", "weight"),
    [
        pytest.param(encode(drawing(600, 800), "JPEG"), Weight.QUICK, id="shop"),
        pytest.param(encode(drawing(600, 800), "JPEG") + bytes(300_000), Weight.LIGHT, id="many-bytes"),
        pytest.param(encode(Image.new("RGB", (3000, 4000)), "JPEG"), Weight.LIGHT, id="many-pixels"),
        pytest.param(encode(drawing(3000, 4000), "JPEG"), Weight.LIGHT, id="camera"),
        pytest.param(encode(drawing(1080, 1440), "PNG"), Weight.LIGHT, id="screenshot"),
        pytest.param(encode(drawing(1600, 2000), "PNG"), Weight.ORDINARY, id="large-screenshot"),
        pytest.param(encode(drawing(600, 800), "JPEG", progressive=True), Weight.ORDINARY, id="progressive"),
        pytest.param(many_scans(30), Weight.LARGE, id="scans"),
        pytest.param(plain_png(2000, 1500), Weight.ORDINARY, id="plain-3-megapixels"),
        pytest.param(plain_png(7000, 7100), Weight.LARGE, id="plain-49-megapixels"),
        pytest.param(encode(Image.new("L", (7000, 7100)), "JPEG"), Weight.LIGHT, id="baseline-49-megapixels"),
    ],
)
def test_a_photo_is_left_to_whoever_can_wait_for_it(data: bytes, weight: Weight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.photo_decoder.PhotoProcess.decode_photo", lambda *_, **limits: "in the process")
    decoder = PhotoDecoder(EngineSettings())
    for at_most in Weight:
        if at_most < weight:
            with pytest.raises(HeavierPhotoError) as left:
                decoder.decode(data, height=HEIGHT, width=WIDTH, at_most=at_most)
            assert left.value.weight is weight
        else:
            decoder.decode(data, height=HEIGHT, width=WIDTH, at_most=at_most)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(drawing(1100, 900), "PNG"), id="png"),
        pytest.param(encode(drawing(600, 500), "WEBP"), id="webp"),
        pytest.param(encode(drawing(1100, 900), "JPEG", progressive=True, subsampling=0), id="progressive"),
        pytest.param(many_scans(30), id="scans"),
    ],
)
def test_large_photos_go_to_the_process(decoder: PhotoDecoder, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.photo_decoder.decode_photo", None)
    assert np.array_equal(decoder.decode(data, height=HEIGHT, width=WIDTH), directly(data))


def test_what_the_header_gives_away_is_refused_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.photo_decoder.decode_photo", None)
    monkeypatch.setattr("app.engine.photo_decoder.PhotoProcess.decode_photo", None)
    decoder = PhotoDecoder(EngineSettings(max_image_pixels=20_000_000, decode_process_bytes=64 * 1024 * 1024))
    hostile = dict(hostile_photos())
    for data, error in (
        (hostile["huge.jpg"], ImageTooLargeError),
        (hostile["huge.png"], ImageTooLargeError),
        (hostile["canvas.webp"], ImageTooLargeError),
        (many_scans(101), ImageTooLargeError),
        (encode(drawing(2000, 2000), "WEBP", method=0), ImageTooLargeError),  # 80 MB
        (valid_photos()["rgb.png"][:20], UndecodableImageError),
        (b"no photo", UnsupportedImageTypeError),
    ):
        with pytest.raises(error) as refused:
            decoder.decode(data, height=HEIGHT, width=WIDTH, at_most=Weight.LIGHT)
        assert refused.value.field == "image"
