"""Photos in a JSON text, decoded where they stand.

Owns the quick way for what nearly every request holds: a long photo in plain base64 in a field `image`. As a string of the
parsed text it would be searched, checked and copied several times before it is decoded: 45 us for 76 kB, and 16 so. Whatever is
unusual stays in the text, for the parser and `app.api.items` to judge. Refuses to know any schema.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from app.api.base64_text import decode_plain
from app.api.json_body import parse_json
from app.errors import ProblemError

_FIELD = b'"image"'
_VALUE = re.compile(rb'\s*:\s*"')
_LEAST_CHARS = 1024
"""Shorter ones are parsed as quickly."""
_MARK = secrets.token_hex(16)
"""Begins what stands in the text in a photo's place. No client knows it, so none can write it."""


def parse_with_photos(body: bytes | bytearray, *, max_values: int, max_image_bytes: int) -> tuple[Any, Mapping[str, bytes]]:
    """The value of a JSON text, and the photos that were decoded, by the string that is in their place.

    Raises what `parse_json` raises.
    """
    text, photos = _without_photos(body, max_values, max_image_bytes)
    if not photos:
        return parse_json(body, max_values=max_values), photos
    try:
        return parse_json(text, max_values=max_values), photos
    except ProblemError:
        # Said of the text as it was sent, since it names places.
        return parse_json(body, max_values=max_values), {}


def _without_photos(body: bytes | bytearray, max_values: int, max_image_bytes: int) -> tuple[bytes, dict[str, bytes]]:
    """The text with marks in the place of photos, and the photos by their marks; none where the text cannot be taken."""
    pieces: list[bytes | memoryview] = []
    photos: dict[str, bytes] = {}
    kept = at = fields = 0
    with memoryview(body) as view:
        # A quote within a string has a backslash before it, so that this is a field wherever the text is JSON.
        while (at := body.find(_FIELD, at)) >= 0:
            at += len(_FIELD)
            fields += 1
            if fields > max_values:
                # Each has a comma or a bracket before it, or this is no JSON: the parser says so without looking at all of it.
                return b"", {}
            if (value := _VALUE.match(body, at)) is None:
                continue
            begin = value.end()
            end = body.find(b'"', begin)
            if end < 0:
                break
            at = end + 1
            if not _LEAST_CHARS <= end - begin <= (max_image_bytes + 2) // 3 * 4:
                continue
            # Base64 alone is spelled so: no escape, no address, no line break.
            with view[begin:end] as encoded:
                photo = decode_plain(encoded)
            if photo is None:
                continue
            mark = f"{_MARK}{len(photos)}"
            photos[mark] = photo
            pieces += (view[kept:begin], mark.encode("ascii"))
            kept = end
        return (b"".join((*pieces, view[kept:])) if photos else b""), photos
