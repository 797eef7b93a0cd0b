"""Where a photo is decoded: an ordinary one in the thread that asks, a large one in a process that can be killed.

Owns the choice and the refusals that a photo's header alone allows. Refuses to know how either way decodes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.engine.images import check_pixels, decode_photo, is_damaged, is_no_photo, takes_too_much
from app.engine.photo_header import PhotoHeader, draft_side, is_photo, read_photo_header
from app.engine.photo_process import PhotoProcess
from app.engine.settings import EngineSettings

MAX_THREAD_SCANS = 20
"""Passes over a progressive JPEG that a thread may take on: encoders write about ten. Each costs as much as a plain photo."""


class PhotoDecoder:
    """Decodes within the settings' limits, whatever is sent. Safe to call from many threads."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._process = PhotoProcess(
            timeout_s=settings.decode_timeout_ms / 1000,
            # The photo as it came is there too, read by two parsers.
            memory_bytes=settings.decode_process_bytes + 3 * settings.max_image_bytes,
        )

    def takes_long(self, data: bytes, *, height: int, width: int) -> bool:
        """Whether `decode` would leave this photo to the process. Microseconds; says False for what it would refuse."""
        if not is_photo(data) or len(data) > self._settings.max_image_bytes:
            return False
        try:
            header = read_photo_header(data, side=draft_side(height, width))
        except EOFError:
            return False
        return not (header is not None and (self._is_refused(header) or self._is_ordinary(header)))

    def decode(self, data: bytes, *, height: int, width: int) -> NDArray[np.uint8]:
        """uint8[height, width, 3], as `images.decode_photo`.

        Raises what that raises, and ImageTooLargeError for a photo that takes too much time or memory. PhotoProcessError
        when the process is needed and cannot be started.
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
            if self._is_ordinary(header):
                return decode_photo(data, height=height, width=width, max_pixels=max_pixels)
        return self._process.decode_photo(data, height=height, width=width, max_pixels=max_pixels)

    def close(self) -> None:
        self._process.close()

    def _is_refused(self, header: PhotoHeader) -> bool:
        settings = self._settings
        return (
            header.pixels > settings.max_image_pixels
            or header.scans > settings.max_jpeg_scans
            or header.decode_bytes > settings.decode_process_bytes
        )

    def _is_ordinary(self, header: PhotoHeader) -> bool:
        return header.decode_bytes <= self._settings.decode_thread_bytes and header.scans <= MAX_THREAD_SCANS
