"""A stream's lines at the engine: how many at once, and when one is asked again.

Owns that a stream waits where a single request is refused, that it leaves the queue to those who cannot wait, and that a
line's deadline is its own: what its siblings take of it is given back. Refuses to know how lines come, in which order their
results go, and what is asked of the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic

import structlog

from app.api.items import ReceivedItem, item_problem
from app.api.operations import AnswerT
from app.engine.errors import DeadlineExceededError, EngineError, ItemError, UnavailableError
from app.engine.items import Item, Reply
from app.errors import ProblemError, problem_from

log = structlog.stdlib.get_logger("itemlens.bulk")

_LEAST_RETRY_S, _FIRST_RETRY_S, _LAST_RETRY_S = 0.005, 0.05, 1.0
"""At first at most as long as a line may take: what is given up after that leaves the queue a moment later."""
_POLITE_S = 1.0
"""A stream's next line waits so long for a short queue, and is then offered like any other: in lasting overload it would never
come to its turn."""
_FEWER = 4
"""So many times fewer lines at once after one whose deadline passed beside its siblings. Then one more for each round that goes
well (additive increase, multiplicative decrease: Chiu and Jain, 1989)."""
_MOST_TRIES = 4
"""Of a line whose deadline passes: with 64 at once the fourth is alone, and its time was its own."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[AnswerT]):
    reply: Reply[AnswerT] | None
    problem: ProblemError | None


class LineWork(Generic[AnswerT]):
    """Of one stream. `ask` asks the engine for one item, which has `timeout_s` from then on; `is_short`: whether the queue is
    so short that who can wait may join it; `patience_s`: how long lines are offered while none is taken on; `most_lines`: how
    many there ever are at once."""

    def __init__(
        self,
        ask: Callable[[Item], Awaitable[Reply[AnswerT]]],
        *,
        is_short: Callable[[], bool],
        timeout_s: float,
        patience_s: float,
        most_lines: int,
    ) -> None:
        self._ask = ask
        self._is_short = is_short
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._most_lines = most_lines
        self._at_once = float(most_lines)
        self._asked = 0
        """Lines that are with the engine."""
        self._turn = asyncio.Lock()
        """Of the one that looks for room; the others wait behind it, so that a refusal is one and not sixty."""
        self._woken = asyncio.Event()
        self._settled_s = 0.0
        self._first_retry_s = min(_FIRST_RETRY_S, max(_LEAST_RETRY_S, timeout_s))
        self._retry_s = self._first_retry_s
        self._was_refused = False

    async def answer(self, received: ReceivedItem) -> Outcome[AnswerT]:
        """One line's answer; never raises for what a client or a full queue can cause."""
        if received.item is None:
            return Outcome(None, received.problem)
        clock = asyncio.get_running_loop().time
        began_s, tries = clock(), 1
        while True:
            async with self._turn:
                await self._find_room()
                self._asked += 1
            asked_s = clock()
            most_asked = self._asked
            try:
                reply = await self._ask(received.item)
            except UnavailableError as error:
                self._asked -= 1
                self._woken.set()  # it may have been the only one that its siblings wait for
                # A stream can wait: a full queue is back-pressure, not a failed item.
                if clock() - max(began_s, self._settled_s) >= self._patience_s:
                    return Outcome(None, problem_from(error))
                self._was_refused = True
            except DeadlineExceededError as error:
                most_asked = max(most_asked, self._asked)
                self._settle(clock())
                # At once: it would not do for an idle service either.
                is_at_once = clock() - asked_s < self._timeout_s / 2
                if most_asked == 1 or is_at_once or tries == _MOST_TRIES:
                    return Outcome(None, problem_from(error))
                self._at_once = max(1.0, min(self._at_once, most_asked / _FEWER))
                tries += 1
            except EngineError as error:
                self._settle(clock())
                return Outcome(None, problem_from(error))
            except asyncio.CancelledError:
                self._settle(clock())
                raise
            except Exception:
                self._settle(clock())
                log.exception("bulk_item_failed")
                return Outcome(None, ProblemError("internal_error"))
            else:
                self._settle(clock())
                self._at_once = min(self._most_lines, self._at_once + 1 / self._at_once)
                result = reply.results[0]
                return Outcome(reply, item_problem(result, received) if isinstance(result, ItemError) else None)

    async def _find_room(self) -> None:
        """Wait until one more line may be offered."""
        clock = asyncio.get_running_loop().time
        polite_until_s = clock() + _POLITE_S
        if self._was_refused:
            self._was_refused = False
            await self._wait(self._retry_s)
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
        while True:
            if self._asked >= self._at_once:
                await self._wait(None)
            elif not self._is_short() and clock() < polite_until_s:
                await self._wait(self._first_retry_s)
            else:
                return

    def _settle(self, now_s: float) -> None:
        self._asked -= 1
        self._settled_s = now_s
        self._retry_s, self._was_refused = self._first_retry_s, False  # the queue moves
        self._woken.set()

    async def _wait(self, timeout_s: float | None) -> None:
        """For a sibling that is settled, or for `timeout_s`."""
        self._woken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
