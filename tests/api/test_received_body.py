"""A body comes out as it came in, whatever was announced, and takes little more memory than has come of it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest

from app.api.received_body import ReceivedBody
from scripts.benchmark.processes import resident_mib

MIB = 1024 * 1024
PIECE = os.urandom(256 * 1024)


@pytest.mark.parametrize("size", [0, 1, len(PIECE), 2 * len(PIECE), 2 * len(PIECE) + 1, 4 * MIB, 5 * MIB + 3, 20 * MIB])
@pytest.mark.parametrize("announced", [0, 100, 5 * MIB + 3, 40 * MIB])
def test_a_body_is_what_was_added(size: int, announced: int) -> None:
    sent = (PIECE * (size // len(PIECE) + 1))[:size]
    body = ReceivedBody(announced)
    for at in range(0, size, 100_001):
        body.add(sent[at : at + 100_001])
    whole = body.whole()
    assert whole == sent
    assert len(whole) == size


def test_a_single_piece_is_not_copied() -> None:
    body = ReceivedBody(len(PIECE))
    body.add(PIECE)
    assert body.whole() is PIECE


def test_a_large_body_is_not_held_twice() -> None:
    body = ReceivedBody(20 * MIB)
    for _ in range(80):
        body.add(PIECE)
    whole = body.whole()
    assert body.whole() is whole


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_announced_and_did_not_come_takes_no_memory() -> None:
    before = resident_mib(os.getpid())
    bodies = [ReceivedBody(60 * MIB) for _ in range(20)]
    for body in bodies:
        for _ in range(3):
            body.add(PIECE)
    # 15 MiB have come, of 1,200. A huge page that has been begun may be more.
    assert resident_mib(os.getpid()) - before < 20 * 2 + 10
    for body in bodies:
        assert body.whole() == 3 * PIECE


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_most_of_a_large_body_asks_for_huge_pages() -> None:
    body = ReceivedBody(20 * MIB)
    for _ in range(80):
        body.add(PIECE)
    whole = body.whole()
    assert isinstance(whole, bytearray)
    start = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    asked = overlap = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(" ", 1)[0]
        if "-" in first and ":" not in first:
            low, high = (int(part, 16) for part in first.split("-"))
            overlap = max(0, min(high, start + len(whole)) - max(low, start))
        elif line.startswith("VmFlags:") and " hg" in line:
            asked += overlap
    assert asked >= 17 * MIB
