from __future__ import annotations

import asyncio

import pytest

from app.engine.fetched_bytes import FetchedBytes

pytestmark = pytest.mark.anyio


async def turns() -> None:
    """Let everything that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_has_no_room_waits_until_enough_is_given_back_from_any_thread() -> None:
    room = FetchedBytes(100)
    await room.take(60)
    await room.take(40)
    waiting = asyncio.create_task(room.take(70))
    await asyncio.to_thread(room.give, 60)
    await turns()
    assert (waiting.done(), room.held_bytes) == (False, 40)
    room.give(10)
    await waiting
    assert room.held_bytes == 100


async def test_who_needs_much_is_not_passed_by_who_needs_little() -> None:
    room = FetchedBytes(100)
    await room.take(50)
    much = asyncio.create_task(room.take(100))
    little = asyncio.create_task(room.take(10))
    await turns()
    assert (much.done(), little.done()) == (False, False)
    room.give(50)
    await much
    await turns()
    assert not little.done()
    room.give(100)
    await little
    assert room.held_bytes == 10


async def test_who_gives_up_waiting_holds_nothing_and_holds_up_nobody() -> None:
    room = FetchedBytes(100)
    await room.take(80)
    first, second, third = (asyncio.create_task(room.take(count)) for count in (100, 100, 20))
    await turns()
    second.cancel()
    first.cancel()
    await third
    assert room.held_bytes == 100
