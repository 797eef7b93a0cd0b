"""Where a photo is decoded: an ordinary one in the thread that asks, a large one in a process that can be killed.

Owns the choice and the refusals that a photo's header alone allows. Refuses to know how either way decodes.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from app.engine.images import check_pixels, decode_photo, is_damaged, is_no_photo, takes_too_much
from app.engine.photo_header import PhotoHeader, draft_side, is_photo, read_photo_header
from app.engine.photo_process import PhotoProcess
from app.engine.settings import EngineSettings

MAX_THREAD_SCANS = 20
"""Passes over a progressive JPEG that a thread may take on: encoders write about ten. Each costs as much as a plain photo."""
MAX_THREAD_PIXELS = 16_000_000
"""Worked out in a thread: up to some 250 ms, in which the next in turn has to wait. A PNG of one colour is 6 kB at any size,
so bytes say nothing of the time."""
_LIGHT_BYTES, _LIGHT_PIXELS = 8 * 1024 * 1024, 2_500_000
"""In memory, and worked out. Any camera's JPEG, a PNG of 1.5 megapixels: up to some 50 ms. Who waits behind it hardly
notices."""
_QUICK_BYTES, _QUICK_DECODE_BYTES, _QUICK_PIXELS, _QUICK_SEEN_PIXELS = 256 * 1024, 2 * 1024 * 1024, 500_000, 4_000_000
"""Encoded, in memory, worked out, and seen: a shop's photo, in some 5 ms."""


class Weight(IntEnum):
    """What decoding a photo takes, by its header: who may wait for it."""

    QUICK = 0
    LIGHT = 1
    ORDINARY = 2
    LARGE = 3
    """A process of its own."""


class HeavierPhotoError(Exception):
    """Raised in place of decoding a photo that weighs more than its caller can wait for."""

    def __init__(self, weight: Weight) -> None:
        super().__init__(weight.name)
        self.weight = weight


class PhotoDecoder:
    """Decodes within the settings' limits, whatever is sent. Safe to call from many threads."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._process = PhotoProcess(
            timeout_s=settings.decode_timeout_ms / 1000,
            # The photo as it came is there too, read by two parsers.
            memory_bytes=settings.decode_process_bytes + 3 * settings.max_image_bytes,
        )

    def decode(self, data: bytes, *, height: int, width: int, at_most: Weight = Weight.LARGE) -> NDArray[np.uint8]:
        """uint8[height, width, 3], as `images.decode_photo`.

        Raises what that raises, and ImageTooLargeError for a photo that takes too much time or memory; HeavierPhotoError, after
        microseconds, for one that weighs more than `at_most`. PhotoProcessError when the process is needed and cannot be
        started.
        """
        if not is_photo(data):
            raise is_no_photo()
        max_pixels = self._settings.max_image_pixels
        try:
            header = read_photo_header(data, side=draft_side(height, width))
        except EOFError:
            raise is_damaged() from None
        if header is not None:
            check_pixels(header.pixels, max_pixels)
            if self._is_refused(header):
                raise takes_too_much()
        weight = self._weigh(header, len(data))
        if weight > at_most:
            raise HeavierPhotoError(weight)
        decode = self._process.decode_photo if weight is Weight.LARGE else decode_photo
        return decode(data, height=height, width=width, max_pixels=max_pixels)

    def close(self) -> None:
        self._process.close()

    def _is_refused(self, header: PhotoHeader) -> bool:
        settings = self._settings
        return header.scans > settings.max_jpeg_scans or header.decode_bytes > settings.decode_process_bytes

    def _weigh(self, header: PhotoHeader | None, encoded_bytes: int) -> Weight:
        """What cannot be sized up is large."""
        if header is None or header.decode_bytes > self._settings.decode_thread_bytes or header.scans > MAX_THREAD_SCANS:
            return Weight.LARGE
        if header.decoded_pixels > MAX_THREAD_PIXELS:
            return Weight.LARGE
        if header.scans > 1 or header.decode_bytes > _LIGHT_BYTES or header.decoded_pixels > _LIGHT_PIXELS:
            return Weight.ORDINARY
        is_quick = encoded_bytes <= _QUICK_BYTES and header.decode_bytes <= _QUICK_DECODE_BYTES
        is_quick = is_quick and header.decoded_pixels <= _QUICK_PIXELS and header.pixels <= _QUICK_SEEN_PIXELS
        return Weight.QUICK if is_quick else Weight.LIGHT
