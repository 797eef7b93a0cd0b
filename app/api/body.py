"""Reading a request's body, and noticing that its sender has gone.

Owns the two ways a client can let us down while we work for it: it stops sending, or it hangs up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.errors import ProblemError


async def receive_chunk(receive: Receive, *, stall_timeout_s: float) -> tuple[bytes, bool]:
    """The next bytes of the body and whether more may follow. Raises `ClientDisconnect`, `ProblemError`
    `body_stalled`."""
    try:
        async with asyncio.timeout(stall_timeout_s):
            message = await receive()
    except TimeoutError:
        raise ProblemError(
            "body_stalled",
            f"Nothing arrived for {stall_timeout_s:g} s in the middle of the body; send it again.",
            headers={"Connection": "close"},
        ) from None
    if message["type"] != "http.request":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def read_body(receive: Receive, *, stall_timeout_s: float) -> bytes:
    """The whole body; the edge bounds its size. Raises as `receive_chunk`."""
    chunk, more = await receive_chunk(receive, stall_timeout_s=stall_timeout_s)
    if not more:
        return chunk
    chunks = [chunk]
    while more:
        chunk, more = await receive_chunk(receive, stall_timeout_s=stall_timeout_s)
        chunks.append(chunk)
    return b"".join(chunks)


@asynccontextmanager
async def abandoned_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client hangs up, so that its queued work is dropped. Raises `ClientDisconnect` then.

    To be entered once the body has been read: from then on the server has nothing to tell but the end of the
    connection.
    """
    worker = asyncio.current_task()
    assert worker is not None  # noqa: S101  (a coroutine always runs in a task)
    has_gone = False

    async def watch() -> None:
        nonlocal has_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        has_gone = True
        worker.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        # Only the watcher's cancellation is ours to swallow; the server's own, at shutdown, has to pass.
        if has_gone and worker.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
