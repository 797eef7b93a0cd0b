"""A timer that is started again and again asks the loop for few timers, and rings in time."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from app.lazy_timer import LazyTimer

pytestmark = pytest.mark.anyio

SPAN_S = 0.06


@pytest.fixture
async def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long the loop was asked to wait."""
    loop, times = asyncio.get_running_loop(), list[float]()
    call_later = loop.call_later

    def noting(delay: float, callback: Callable[..., object], *given: Any, **options: Any) -> asyncio.TimerHandle:
        times.append(delay)
        return call_later(delay, callback, *given, **options)

    monkeypatch.setattr(loop, "call_later", noting)
    return times


def timer(rings: list[float]) -> LazyTimer:
    loop = asyncio.get_running_loop()
    return LazyTimer(loop, SPAN_S, lambda: rings.append(loop.time()))


async def test_it_rings_once_a_span_after_the_latest_start(asked: list[float]) -> None:
    rings: list[float] = []
    loop, lazy = asyncio.get_running_loop(), timer(rings)
    for _ in range(5):
        lazy.start()
        latest = loop.time()
        await asyncio.sleep(SPAN_S / 3)
    assert rings == []
    await asyncio.sleep(2 * SPAN_S)
    [rang] = rings
    assert rang - latest >= SPAN_S - 0.002


async def test_starts_and_stops_within_a_span_cost_the_loop_one_timer(asked: list[float]) -> None:
    lazy = timer([])
    for _ in range(1000):
        lazy.start()
        lazy.stop()
    assert asked == [SPAN_S]


async def test_one_that_was_stopped_does_not_ring_and_may_be_started_anew() -> None:
    rings: list[float] = []
    lazy = timer(rings)
    lazy.start()
    lazy.stop()
    await asyncio.sleep(2 * SPAN_S)
    assert rings == []
    lazy.start()
    await asyncio.sleep(2 * SPAN_S)
    assert len(rings) == 1


async def test_one_that_was_closed_rings_no_more_and_leads_to_nobody() -> None:
    class Owner:
        def ring(self) -> None:
            raise AssertionError("closed")

    owner = Owner()
    lazy = LazyTimer(asyncio.get_running_loop(), SPAN_S, owner.ring)
    lazy.start()
    lazy.close()
    gone = weakref.ref(owner)
    del owner
    assert gone() is None
    await asyncio.sleep(2 * SPAN_S)
