"""What decoding a photo will take, read from its header before a pixel is decoded.

Owns the walk over the parts of a JPEG, PNG or WebP file and the estimate of memory and passes. Reads bytes alone: no
imaging library runs, so a file made to hurt one is sized up for microseconds. Refuses to decide what is allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_PARTS = 4096
"""Segments or chunks looked at before giving up; 10 MB of PNG in libpng's pieces of 8 kB are 1,280."""

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SINGLE_PASS_FRAMES = (0xC0, 0xC1)
_SCAN = 0xDA
_END = 0xD9
_MAX_MARKERS = 40_000
# A marker within coded data: neither a stuffed zero, nor fill, nor a restart.
_FILL = re.compile(rb"\xff+")
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# PNG colour type to channels.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Pillow unpacks each of these by itself, up to this many bytes.
_TEXT_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")
_TEXT_CHUNK_BYTES = 1024 * 1024
_BYTES_PER_PIXEL = 4
# Two canvases of libwebp's animation decoder, the lossless decoder's own picture, Pillow's copy and the image: measured
# at 16 to 20 bytes for each pixel.
_WEBP_BYTES_PER_PIXEL = 20


@dataclass(frozen=True, slots=True)
class PhotoHeader:
    """`width` and `height` in stored pixels, before any rotation."""

    width: int
    height: int
    scans: int
    """Passes over the picture: 1 but for progressive and multi-scan JPEG."""
    decode_bytes: int
    """Memory that decoding takes at its peak, in bytes; a bound from above for a file that does not lie."""

    reduction: int = 1
    """By how much each side is scaled down while it is decoded, as a baseline JPEG's can be."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def decoded_pixels(self) -> int:
        """Those that are worked out."""
        return self.pixels // self.reduction**2


def is_photo(data: bytes) -> bool:
    """Whether the signature is one of JPEG, PNG or WebP."""
    return data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n" or data[:4] + data[8:12] == b"RIFFWEBP"


def read_photo_header(data: bytes, *, side: int) -> PhotoHeader | None:
    """Size up an encoded photo that will be scaled to at most `side` x `side` pixels.

    None for what cannot be sized up: another type, a broken header, or more than `MAX_PARTS` parts before the picture.
    Raises EOFError for a file that ends before its picture begins.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg(data, side)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(data, side)
        if data[:4] + data[8:12] == b"RIFFWEBP":
            return _webp(data)
    except IndexError:
        raise EOFError from None
    return None


def draft_side(height: int, width: int) -> int:
    """The side, in pixels, of a square that a JPEG is still decoded to at most (`decode_photo` asks for less where the photo's
    shape leaves room)."""
    return 2 * max(height, width)


def is_thin(width: int, height: int) -> bool:
    """Whether Pillow shrinks the height of such a picture before its width."""
    return height > 100 * width


def _jpeg(data: bytes, side: int) -> PhotoHeader | None:
    position = 2
    frame: tuple[int, int, int, int, float] | None = None
    for _ in range(MAX_PARTS):
        fill = _FILL.match(data, position)
        if fill is None:
            if position >= len(data):
                raise IndexError
            return None
        position = fill.end()
        marker, length = data[position], _int(data, position + 1, 2)
        if length < 2 or marker < 0xC0 or 0xD0 <= marker < _SCAN:
            return None
        if marker in _START_OF_FRAME:
            components = data[position + 8]
            factors = [data[position + 10 + 3 * i] for i in range(components)]
            samples = [(factor >> 4) * (factor & 15) for factor in factors]
            if not samples or 0 in samples:
                return None
            frame = (
                marker,
                _int(data, position + 6, 2),
                _int(data, position + 4, 2),
                components,
                sum(samples) / max(samples),
            )
        if marker == _SCAN:
            break
        position += 1 + length
    else:
        return None
    if frame is None:
        return None
    kind, width, height, components, samples_per_pixel = frame
    reduction = next((s for s in (8, 4, 2) if min(width, height) // side >= s), 1)
    decode_bytes = width * height * _BYTES_PER_PIXEL // reduction**2
    if kind in _SINGLE_PASS_FRAMES and data[position + 3] == components:
        return PhotoHeader(width, height, 1, decode_bytes, reduction)
    # What comes in several passes is held as coefficients of two bytes, for the whole picture.
    decode_bytes += int(width * height * 2 * samples_per_pixel)
    return PhotoHeader(width, height, _count_scans(data, position - 1), decode_bytes)


def _count_scans(data: bytes, position: int) -> int:
    """Scans from the first one on, at `position`. Coded data cannot hold the marker, so a walk finds just these.

    With more than `_MAX_MARKERS` of any kind, their number.
    """
    scans = 0
    for _ in range(_MAX_MARKERS):
        found = _MARKER.search(data, position)
        if found is None:
            return scans
        position = found.end()
        marker = data[position - 1]
        if marker == _END:
            return scans
        scans += marker == _SCAN
        position += _int(data, position, 2) if position + 2 <= len(data) else 2
    return _MAX_MARKERS


def _png(data: bytes, side: int) -> PhotoHeader | None:
    if data[12:16] != b"IHDR" or data[25] not in _CHANNELS:
        return None
    width, height, depth, channels = _int(data, 16, 4), _int(data, 20, 4), data[24], _CHANNELS[data[25]]
    # Pillow keeps grey and palette in one byte, deep grey in two, everything else in four.
    per_pixel = (2 if depth == 16 else 1) if channels == 1 else _BYTES_PER_PIXEL
    # What is not plain RGB is converted and narrowed in strips.
    narrow = width if is_thin(width, height) else min(width, side)
    decode_bytes = width * height * per_pixel + narrow * height * _BYTES_PER_PIXEL
    position = 8
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):  # the last chunk may be missing
            return PhotoHeader(width, height, 1, decode_bytes)
        length, kind = _int(data, position, 4), data[position + 4 : position + 8]
        if kind == b"acTL":  # an animation: the frame is laid onto a canvas
            decode_bytes += 2 * width * height * _BYTES_PER_PIXEL
        if kind in _TEXT_CHUNKS:
            decode_bytes += _TEXT_CHUNK_BYTES
        position += 12 + length
        if kind == b"IEND":
            return PhotoHeader(width, height, 1, decode_bytes)
    return None


def _webp(data: bytes) -> PhotoHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
    elif kind == b"VP8L" and data[20] == 0x2F:
        bits = _little(data, 21, 4)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    else:
        return None
    position = 12
    for _ in range(MAX_PARTS):
        position += 8 + (_little(data, position + 4, 4) + 1 & ~1)
        if position + 8 > len(data):
            return PhotoHeader(width, height, 1, width * height * _WEBP_BYTES_PER_PIXEL)
    return None


def _int(data: bytes, position: int, size: int) -> int:
    if position + size > len(data):
        raise IndexError
    return int.from_bytes(data[position : position + size], "big")


def _little(data: bytes, position: int, size: int) -> int:
    if position + size > len(data):
        raise IndexError
    return int.from_bytes(data[position : position + size], "little")
