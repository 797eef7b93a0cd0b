"""Whether a worker has one client at a time.

Owns the memory of which connection had the last requests. Refuses to know what is done in a worker that nobody else waits
for.
"""

from __future__ import annotations

ALONE_S = 0.1
"""A client that keeps a connection busy asks more often than this; who asks less often is alone with nearly every request."""


class LoneClient:
    """Of one worker's connections."""

    __slots__ = ("_latest", "_latest_s", "_other_s")

    def __init__(self) -> None:
        self._latest: int | None = None
        self._latest_s = self._other_s = float("-inf")

    def ask(self, connection: object, now_s: float) -> bool:
        """A request comes on `connection`: whether no other connection had one for `ALONE_S`."""
        if id(connection) != self._latest:
            self._latest, self._other_s = id(connection), self._latest_s
        self._latest_s = now_s
        return now_s - self._other_s >= ALONE_S
