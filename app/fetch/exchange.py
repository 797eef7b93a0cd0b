"""One request and its answer over one connection, which a host may end as it likes.

Owns that what has come counts before how the connection ended: many hosts send the whole answer and then close without
saying so in TLS (`close_notify`). Streams would lose what they hold then. Refuses to know what an answer is, and TLS.
"""

from __future__ import annotations

import asyncio
from typing import cast

from app.fetch.answer import Answer


class Exchange(asyncio.Protocol):
    """Sends `request` once it is connected. What comes is taken as it comes, since `answer` has a bound of its own."""

    def __init__(self, request: bytes, answer: Answer) -> None:
        self._request = request
        self._answer = answer
        self._is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def photo(self) -> bytes:
        """Wait for the answer. Raises as `Answer.photo` does."""
        await self._is_over
        return self._answer.photo()

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer.feed(data)
        self._wake()

    def eof_received(self) -> None:
        self._answer.end(is_orderly=True)
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._answer.end(is_orderly=error is None)
        self._wake()

    def _wake(self) -> None:
        if self._answer.is_over and not self._is_over.done():
            self._is_over.set_result(None)
