"""Base64 is read in every common spelling, and the quick decoder takes and refuses what the strict one does."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, TypeAdapter, ValidationError

from app.api.base64_text import decode_base64

_STRICT = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))
_SPELLINGS = st.text(st.sampled_from("ABQRZaz019+/-_=\n ü\0"), max_size=12)


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_both_alphabets_with_and_without_padding_are_read(photo: bytes, url_safe: bool, padded: bool) -> None:
    encoded = (base64.urlsafe_b64encode(photo) if url_safe else base64.b64encode(photo)).decode()
    assert decode_base64(encoded if padded else encoded.rstrip("=")) == photo


@given(_SPELLINGS)
def test_what_is_base64_does_not_depend_on_the_quick_decoder(encoded: str) -> None:
    try:
        expected = _STRICT.validate_strings(encoded)
    except ValidationError:
        with pytest.raises(ValueError, match="not base64"):
            decode_base64(encoded)
    else:
        assert decode_base64(encoded) == expected


@pytest.mark.parametrize("encoded", ["QR==", "QQJ=", "QR", "QQJ"])
def test_bits_beyond_the_last_byte_are_refused(encoded: str) -> None:
    with pytest.raises(ValueError, match="not base64"):
        decode_base64(encoded)


def test_a_photo_that_is_long_is_read_whole() -> None:
    photo = os.urandom(300_001)
    assert decode_base64(base64.b64encode(photo).decode()) == photo
