"""How many connections one server has, and which of them goes when there is one too many.

Owns the count, which begins when a connection is accepted: over TLS a handshake comes first, and costs a descriptor as well.
Refuses to know what is said on a connection, and how a handshake is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from app import metrics

HANDSHAKE_SHARE = 4
"""One in so many connections may be an unfinished handshake before idle ones have to go. Whoever opens connections and says
nothing then pushes out others like it, and a handshake has the time in which so many come to finish."""
MOST_LEAVING = 64
"""How many connections may end in order beside those that count; what goes beyond is cut. At most so many handshakes may stand
beside them as well. Their descriptors are among those that `app.listeners` leaves for other things."""


class Connection(Protocol):
    @property
    def transport(self) -> asyncio.Transport: ...


class ConnectionRoom:
    """Of one server. A connection is known by its protocol."""

    def __init__(self, most: int) -> None:
        self.idle: dict[Connection, None] = {}
        """Connections without anything under way, the longest idle first."""
        self._most = most
        self._open: set[Connection] = set()
        self._handshakes: dict[object, Callable[[], None]] = {}
        """How each is dropped; the oldest first."""
        self._leaving: set[Connection] = set()

    def begin_handshake(self, connection: object, drop: Callable[[], None]) -> None:
        """Another one makes room for it. With everybody busy a few stand beside the others, to be told so once they are
        finished: clients that come together would else push each other out."""
        if self._is_full():
            self._make_room()
        self._handshakes[connection] = drop

    def end_handshake(self, connection: object) -> None:
        self._handshakes.pop(connection, None)

    def enter(self, connection: Connection) -> bool:
        """Whether there is room, if need be in another one's place."""
        self.end_handshake(connection)
        if len(self._open) >= self._most and not self._end_longest_idle():
            return False
        if self._is_full():
            self._make_room()
        self._open.add(connection)
        return True

    def may_leave_in_order(self, connection: Connection) -> bool:
        """Whether one that does not count, or no longer, has time to say or hear why."""
        self._open.discard(connection)
        if len(self._leaving) >= MOST_LEAVING:
            return False
        self._leaving.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        self.idle.pop(connection, None)
        self._open.discard(connection)
        self._leaving.discard(connection)

    def _is_full(self) -> bool:
        return len(self._open) + len(self._handshakes) >= self._most

    def _make_room(self) -> None:
        few = self._most // HANDSHAKE_SHARE
        if len(self._handshakes) >= (few + 1 if self.idle else max(1, min(few, MOST_LEAVING))):
            oldest = next(iter(self._handshakes))
            metrics.ENDED_CONNECTIONS.labels("too_many").inc()
            self._handshakes.pop(oldest)()
        else:
            self._end_longest_idle()

    def _end_longest_idle(self) -> bool:
        longest_idle = next(iter(self.idle), None)
        if longest_idle is None:
            return False
        del self.idle[longest_idle]
        metrics.ENDED_CONNECTIONS.labels("idle_for_another").inc()
        # In any case, since an answer may still be held for it (`app.turn_writes`).
        longest_idle.transport.close()
        if not self.may_leave_in_order(longest_idle):
            longest_idle.transport.abort()
        return True
