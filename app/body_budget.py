"""How many bytes of request bodies one worker holds at once.

Owns the count, and that streams which wait for room never wait for each other alone. A request takes what it receives and gives
it back when it is answered; nothing is set aside for what was only announced, so that announcing costs others nothing. Refuses
to know routes and what the bytes are. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.errors import ProblemError

_LOOK_AGAIN_S = 0.02


class BodyBudget:
    """`max_bytes` for all requests under way together."""

    __slots__ = ("held_bytes", "holder", "max_bytes", "waiting")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.holder: BodyLease | None = None
        """Whose line may use the room that is kept for one."""
        self.waiting: dict[BodyLease, None] = {}
        """For this, the longest waiting before the others."""

    def has_room(self, more_bytes: int) -> bool:
        return self.held_bytes + more_bytes <= self.max_bytes


class BodyLease:
    """What one request holds. Closed when the request is over, it gives all of it back."""

    __slots__ = ("_budget", "_held_bytes", "_holds_since_s", "on_in_the_way")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._held_bytes = 0
        self._holds_since_s = 0.0
        self.on_in_the_way: Callable[[], None] | None = None
        """Set while the client is waited for: gives its line up, for the sake of others that wait."""

    @property
    def max_line_bytes(self) -> int:
        """Of a stream's line. The other half is for the lines that wait while it is finished."""
        return self._budget.max_bytes // 2

    def take(self, more_bytes: int) -> None:
        """Raises `ProblemError` `overloaded` when the budget does not hold them."""
        if not self._budget.has_room(more_bytes):
            raise no_room()
        self._add(more_bytes)

    async def take_in_time(self, more_bytes: int, *, reserve_bytes: int, timeout_s: float) -> None:
        """Wait for room for more of a line: a stream need not be refused. Raises `ProblemError` `overloaded` when there is none
        in time.

        `reserve_bytes`: the longest line. Half-received lines could wait for each other, all room between them; so this much is
        kept for one of them in turn, until `end_line`. Where its client is slow, it gives way to the next once that has waited
        for half of its time.
        """
        budget, clock = self._budget, asyncio.get_running_loop().time
        began_s = clock()
        try:
            while not budget.has_room(more_bytes if budget.holder is self else more_bytes + reserve_bytes):
                if clock() >= began_s + timeout_s:
                    raise no_room()
                if budget.holder is not self:
                    budget.waiting[self] = None
                    if next(iter(budget.waiting)) is self and self._takes_turn(clock(), began_s, timeout_s):
                        continue
                await asyncio.sleep(_LOOK_AGAIN_S)
        finally:
            budget.waiting.pop(self, None)
        self._add(more_bytes)

    def _takes_turn(self, now_s: float, began_s: float, timeout_s: float) -> bool:
        """Whether the turn was free, or taken from one whose client is slow."""
        other = self._budget.holder
        if other is not None:
            if other.on_in_the_way is None or now_s < max(began_s, other._holds_since_s) + timeout_s / 2:
                return False
            other.on_in_the_way()
        self._budget.holder, self._holds_since_s = self, now_s
        return True

    def end_line(self) -> None:
        """The line has come, or will not."""
        if self._budget.holder is self:
            self._budget.holder = None

    def give(self, fewer_bytes: int) -> None:
        """Give back some of what was taken."""
        self._add(-fewer_bytes)

    def close(self) -> None:
        self.end_line()
        self._add(-self._held_bytes)

    def _add(self, more_bytes: int) -> None:
        self._held_bytes += more_bytes
        self._budget.held_bytes += more_bytes


def no_room() -> ProblemError:
    return ProblemError(
        "overloaded",
        "The bodies of other requests fill the memory set aside for them; try again later.",
        headers={"Retry-After": "1"},
    )
