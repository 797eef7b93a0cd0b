"""Whoever waits hears when its deadline passes, with one timer for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.engine.deadlines import Deadlines, deadlines_of

pytestmark = pytest.mark.anyio


class Waiting:
    def __init__(self, after_s: float | None) -> None:
        self.deadline = None if after_s is None else time.monotonic() + after_s
        self.expired_s: list[float] = []

    def expire(self) -> None:
        self.expired_s.append(time.monotonic())


@pytest.fixture
async def deadlines() -> Deadlines:
    return Deadlines(asyncio.get_running_loop())


async def test_each_expires_once_at_its_own_deadline(deadlines: Deadlines) -> None:
    waiting = [Waiting(after_s) for after_s in (0.09, 0.03, 0.06, 0.0, -1.0)]
    for one in waiting:
        deadlines.watch(one)
    await asyncio.sleep(0.15)
    for one in waiting:
        [expired_s] = one.expired_s
        assert one.deadline is not None
        assert expired_s >= one.deadline - 0.002


async def test_who_is_forgotten_or_has_no_deadline_never_expires(deadlines: Deadlines) -> None:
    first, forgotten, endless, last = Waiting(0.02), Waiting(0.03), Waiting(None), Waiting(0.05)
    for one in (first, forgotten, endless, last):
        deadlines.watch(one)
    deadlines.forget(forgotten)
    deadlines.forget(endless)
    await asyncio.sleep(0.1)
    assert [len(one.expired_s) for one in (first, forgotten, endless, last)] == [1, 0, 0, 1]


async def test_who_expires_may_have_another_forgotten(deadlines: Deadlines) -> None:
    class Both(Waiting):
        def expire(self) -> None:
            super().expire()
            deadlines.forget(other)

    other, both = Waiting(0.01), Both(0.01)
    deadlines.watch(both)
    deadlines.watch(other)
    await asyncio.sleep(0.05)
    assert both.expired_s
    assert not other.expired_s


async def test_a_thousand_that_are_answered_in_time_cost_the_loop_one_timer(
    deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, asked = asyncio.get_running_loop(), list[float]()
    call_later = loop.call_later

    def noting(delay: float, callback: Callable[..., object], *given: Any) -> asyncio.TimerHandle:
        asked.append(delay)
        return call_later(delay, callback, *given)

    monkeypatch.setattr(loop, "call_later", noting)
    for _ in range(1000):
        one = Waiting(30.0)
        deadlines.watch(one)
        deadlines.forget(one)
    assert len(asked) == 1


async def test_a_loop_has_one_of_its_own() -> None:
    loop = asyncio.get_running_loop()
    assert deadlines_of(loop) is deadlines_of(loop)
    assert (await asyncio.to_thread(asyncio.run, _other())).loop is not loop


async def _other() -> Deadlines:
    return deadlines_of(asyncio.get_running_loop())
