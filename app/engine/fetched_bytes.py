"""How many bytes of fetched photos one process holds at once, those that are still coming included.

Owns the count and who waits for room. Refuses to know fetches, items and requests.
"""

from __future__ import annotations

import asyncio
import contextlib


class FetchedBytes:
    """`max_bytes` for all together. `take` belongs to the event loop that it was first called on."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        # In the order of their calls: one who needs much is not passed by all who need little.
        self._turn = asyncio.Lock()
        self._given = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def take(self, more_bytes: int) -> None:
        """Wait for room, however long. `more_bytes`: of the whole at most, or it would be for ever."""
        self._loop = asyncio.get_running_loop()
        async with self._turn:
            while self.held_bytes + more_bytes > self.max_bytes:
                self._given.clear()
                await self._given.wait()
            self.held_bytes += more_bytes

    def give(self, fewer_bytes: int) -> None:
        """Give back some of what was taken. From any thread; counted on the event loop, a little later."""
        if fewer_bytes and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there
                self._loop.call_soon_threadsafe(self._give, fewer_bytes)

    def _give(self, fewer_bytes: int) -> None:
        self.held_bytes -= fewer_bytes
        self._given.set()
