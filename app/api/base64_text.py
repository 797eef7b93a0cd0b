"""Base64 text to bytes, as quick as the processor's vectors allow.

Owns which spellings are taken: RFC 4648's two alphabets, with or without padding, and no bits beyond the last byte. Refuses to
know what is in it, and which problem it is.
"""

from __future__ import annotations

import binascii
from typing import Final

import pybase64
from pydantic import ConfigDict, TypeAdapter, ValidationError

# Compiled and strict, takes the URL-safe alphabet and missing padding: 77 kB in 60 µs, where binascii takes 170.
_ANY_SPELLING: Final = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))


def decode_plain(encoded: str | memoryview) -> bytes | None:
    """The bytes that the text stands for, where it is spelled as most are: the standard alphabet with its padding, and nothing
    else. A tenth of the other spellings' time."""
    try:
        decoded: bytes = pybase64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    # It lets bits beyond the last byte pass: two texts of one photo.
    if rest := len(decoded) % 3:
        ending = binascii.b2a_base64(decoded[-rest:], newline=False)
        if encoded[-4:] != (ending.decode("ascii") if isinstance(encoded, str) else ending):
            return None
    return decoded


def decode_base64(encoded: str) -> bytes:
    """The bytes that the text stands for. Raises ValueError where it is not base64."""
    if (decoded := decode_plain(encoded)) is not None:
        return decoded
    try:
        return _ANY_SPELLING.validate_strings(encoded)
    except ValidationError:
        raise ValueError("not base64") from None
