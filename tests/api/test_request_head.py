"""Heads that two readers may read differently are refused, all others let through."""

from __future__ import annotations

import pytest

from app.request_head import MALFORMED, REPEATED, Refusal, check_head

HOST = (b"host", b"shop.example:8000")


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", [HOST]),
        ("1.1", [(b"host", b"")]),
        ("1.1", [(b"host", b"[2001:db8::1]:80")]),
        ("1.1", [HOST, (b"transfer-encoding", b"Chunked")]),
        ("1.1", [HOST, (b"accept", b"a/b"), (b"accept", b"c/d"), (b"x-request-id", b"a"), (b"x-request-id", b"b")]),
        ("1.0", []),
        ("1.0", [HOST]),
    ],
)
def test_what_is_clear_passes(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    check_head(version, headers)


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", []),
        ("1.1", [HOST, HOST]),
        ("1.1", [(b"host", b"a b")]),
        ("1.1", [(b"host", b"a/b")]),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")]),
        ("1.1", [HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")]),
        ("1.0", [HOST, HOST]),
        ("1.0", [(b"transfer-encoding", b"chunked")]),
        ("2.0", [HOST]),
        ("0.9", [HOST]),
    ],
)
def test_what_is_not_well_formed_is_refused(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Refusal, match=MALFORMED.text.split("(")[0]) as refusal:
        check_head(version, headers)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "name", [b"content-type", b"content-encoding", b"x-request-timeout-ms", b"authorization", b"x-api-key"]
)
def test_a_header_that_decides_something_may_come_once(name: bytes) -> None:
    check_head("1.1", [HOST, (name, b"a")])
    with pytest.raises(Refusal) as refusal:
        check_head("1.1", [HOST, (name, b"a"), (b"accept", b"*/*"), (name, b"a")])
    assert refusal.value.text == REPEATED.text
