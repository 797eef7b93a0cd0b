"""How many bytes of request bodies one worker holds at once.

Owns the count. A request takes what it receives and gives it back when it is answered; nothing is set aside for what was only
announced, so that announcing costs others nothing. Refuses to know routes and what the bytes are. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio

from app.errors import ProblemError

_LOOK_AGAIN_S = 0.02


class BodyBudget:
    """`max_bytes` for all requests under way together."""

    __slots__ = ("held_bytes", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def has_room(self, more_bytes: int) -> bool:
        return self.held_bytes + more_bytes <= self.max_bytes


class BodyLease:
    """What one request holds. Closed when the request is over, it gives all of it back."""

    __slots__ = ("_budget", "_held_bytes")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._held_bytes = 0

    def take(self, more_bytes: int) -> None:
        """Raises `ProblemError` `overloaded` when the budget does not hold them."""
        if not self._budget.has_room(more_bytes):
            raise no_room()
        self._add(more_bytes)

    async def take_in_time(self, more_bytes: int, *, timeout_s: float) -> None:
        """Wait for room: a stream need not be refused. Raises `ProblemError` `overloaded` when there is none in time."""
        give_up_at_s = asyncio.get_running_loop().time() + timeout_s
        while not self._budget.has_room(more_bytes):
            if asyncio.get_running_loop().time() >= give_up_at_s:
                raise no_room()
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._add(more_bytes)

    def give(self, fewer_bytes: int) -> None:
        """Give back some of what was taken."""
        self._add(-fewer_bytes)

    def close(self) -> None:
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
