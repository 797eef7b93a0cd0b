"""One timer for all who wait on an event loop.

Owns when the earliest deadline is looked at. Nearly all requests are answered long before theirs, and a timer of the loop for
each, made and cancelled, is a hundredth of what a request costs. Refuses to know what is waited for.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

_EARLY_S = 0.001
"""A timer may come so much before its time."""


class Waiter(Protocol):
    @property
    def deadline(self) -> float | None:
        """In seconds of `time.monotonic()`; does not change while it is watched."""

    def expire(self) -> None:
        """Its deadline has passed."""


class Deadlines:
    """Of one event loop; to be used on it alone."""

    __slots__ = ("_due_s", "_timer", "_waiting", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: dict[Waiter, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = float("inf")

    def watch(self, waiter: Waiter) -> None:
        """`expire` will be called at its deadline, unless `forget` is before; never for one without a deadline."""
        if (deadline := waiter.deadline) is not None:
            self._waiting[waiter] = deadline
            if deadline < self._due_s:
                self._ring_at(deadline)

    def forget(self, waiter: Waiter) -> None:
        self._waiting.pop(waiter, None)

    def _ring_at(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self.loop.call_later(max(0.0, due_s - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer, self._due_s = None, float("inf")
        now_s = time.monotonic() + _EARLY_S
        for waiter in [waiter for waiter, deadline in self._waiting.items() if deadline <= now_s]:
            if self._waiting.pop(waiter, None) is not None:  # not forgotten since by another's `expire`
                waiter.expire()
        if self._waiting:
            self._ring_at(min(self._waiting.values()))


_latest: Deadlines | None = None


def deadlines_of(loop: asyncio.AbstractEventLoop) -> Deadlines:
    """Whoever waits keeps what it was given: with loops in turns there are several of one."""
    global _latest
    if _latest is None or _latest.loop is not loop:
        _latest = Deadlines(loop)
    return _latest
