"""How long a refusal is held back from a client that would ask again at once.

A client that ignores `Retry-After` asks again as soon as it is refused: 256 of them had a worker say no twelve thousand times a
second, and answer a quarter of what it can. While the event loop takes more than half of its core, refusals wait, so that such
clients come less often, and none waits for long. Owns that wait. Refuses to know why a request is refused, and what is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

MOST_WAIT_S = 0.1
"""Beside the second that `Retry-After` asks for it is nothing. A thousand clients can still ask ten thousand times a second."""
_MOST_SHARE = 0.5
"""Of its thread's time. Ten times what can be answered takes 0.4 of it, with photos of 58 kB."""
_WINDOW_S = 0.1
_SILENCE_S = 1.0
_LEAST_WAIT_S, _STEP = 0.005, 1.25
_TURN_S = 0.005
"""Those whose time has come leave together."""


class RefusalPace:
    """Of one event loop, and used in its thread alone."""

    __slots__ = ("_began_s", "_thread_s", "_thread_time", "_wait_s", "_waiting", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, thread_time: Callable[[], float] = time.thread_time) -> None:
        """`thread_time`: the processor time of this thread, in seconds."""
        self.loop = loop
        self._thread_time = thread_time
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._wait_s = 0.0
        self._began_s = self._thread_s = float("-inf")

    def has_to_wait(self, leave: Callable[[], None]) -> bool:
        """Of a refusal that is made now: `leave` is called later, or it may leave at once."""
        now_s = self.loop.time()
        if now_s - self._began_s >= _WINDOW_S:
            self._end_window(now_s)
        if not self._wait_s and not self._waiting:
            return False
        if not self._waiting:
            self.loop.call_later(_TURN_S, self._look)
        self._waiting.append((now_s + self._wait_s, leave))
        return True

    def _end_window(self, now_s: float) -> None:
        thread_s = self._thread_time()
        if now_s - self._began_s > _SILENCE_S:
            self._wait_s = 0.0
        elif thread_s - self._thread_s > _MOST_SHARE * (now_s - self._began_s):
            self._wait_s = min(max(_LEAST_WAIT_S, self._wait_s * _STEP), MOST_WAIT_S)
        else:
            self._wait_s = self._wait_s / _STEP if self._wait_s > _LEAST_WAIT_S else 0.0
        self._began_s, self._thread_s = now_s, thread_s

    def _look(self) -> None:
        waiting, now_s = self._waiting, self.loop.time()
        try:
            while waiting and waiting[0][0] <= now_s:
                waiting.popleft()[1]()
        finally:
            if waiting:
                self.loop.call_later(_TURN_S, self._look)


_latest: RefusalPace | None = None


def refusal_pace_of(loop: asyncio.AbstractEventLoop) -> RefusalPace:
    global _latest
    if _latest is None or _latest.loop is not loop:
        _latest = RefusalPace(loop)
    return _latest
