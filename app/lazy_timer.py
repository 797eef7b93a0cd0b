"""A timer that is started and stopped far more often than it rings.

Owns when the event loop is asked for a timer: once in the time that this one takes, whatever happens meanwhile. A connection is
idle between any two of its requests, and a timer of the loop for each such moment, made and cancelled, is a hundredth of what
a request costs. Refuses to know what it rings for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_EARLY_S = 0.001
"""The resolution of uvloop's timers: one may come so much before its time."""


class LazyTimer:
    """Calls `ring` once `after_s` seconds have passed since the latest `start`, unless it was stopped since. Whoever is done
    with it closes it, and does not start it any more."""

    __slots__ = ("_after_s", "_due_s", "_handle", "_loop", "_ring")

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._after_s = after_s
        self._ring: Callable[[], None] | None = ring
        self._due_s: float | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Anew, where it was started before."""
        self._due_s = self._loop.time() + self._after_s
        if self._handle is None:
            self._handle = self._loop.call_later(self._after_s, self._look)

    def stop(self) -> None:
        self._due_s = None

    def close(self) -> None:
        """Let go of whom it would ring for."""
        self._due_s = self._ring = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        self._handle = None
        if self._due_s is None or self._ring is None:
            return
        left_s = self._due_s - self._loop.time()
        if left_s > _EARLY_S:
            self._handle = self._loop.call_later(left_s, self._look)
        else:
            self._due_s = None
            self._ring()
