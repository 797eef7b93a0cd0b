"""Reading a request's body, and noticing that its sender has gone.

Owns the two ways a client can let us down while we work for it: it stops sending, or it hangs up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from app.api.received_body import ReceivedBody
from app.engine.errors import DeadlineExceededError
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


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a body has to come: `min_bytes_per_s` on average over each `span_s` seconds spent waiting for it."""

    span_s: float
    min_bytes_per_s: int


def has_come(scope: Scope) -> bool:
    """Whether the request is known to be there to its end, so that nobody has to wait for it."""
    return _is_known(scope, "has_come")


def is_alone(scope: Scope) -> bool:
    """Whether the request's client is known to have this worker to itself (see `app.lone_client`)."""
    return _is_known(scope, "is_alone")


def _is_known(scope: Scope, name: str) -> bool:
    connection: dict[str, Any] = scope.get("extensions", {}).get("itemlens.connection", {})
    return bool(connection.get(name, False))


async def read_body(
    receive: Receive, pace: Pace, *, timeout_s: float, is_there: bool = False, announced_bytes: int = 0
) -> bytes | bytearray:
    """The whole body; the edge bounds its size. `timeout_s`: what is left of the caller's deadline. `is_there`: see `has_come`;
    watching the time would be a quarter of what reading it costs. `announced_bytes`: see `ReceivedBody`.

    Only the time spent waiting counts, so that a busy service blames nobody. Raises `ClientDisconnect`,
    `DeadlineExceededError`, `ProblemError` `body_stalled`.
    """
    clock = asyncio.get_running_loop().time
    give_up_at_s = clock() + timeout_s
    body = ReceivedBody(announced_bytes)
    waited_s, received = 0.0, 0
    while True:
        began_s = clock()
        too_slow_at_s = began_s + pace.span_s - waited_s
        if is_there:
            message = await receive()
        else:
            try:
                async with asyncio.timeout_at(min(give_up_at_s, too_slow_at_s)):
                    message = await receive()
            except TimeoutError:
                # Not asked of the clock: a timer may ring a little early.
                raise _too_slow(pace, is_late=give_up_at_s <= too_slow_at_s) from None
        if message["type"] != "http.request":
            raise ClientDisconnect
        piece = message.get("body", b"")
        body.add(piece)
        if not message.get("more_body", False):
            return body.whole()
        waited_s += clock() - began_s
        received += len(piece)
        if received >= pace.min_bytes_per_s * pace.span_s:
            waited_s, received = 0.0, 0


def _too_slow(pace: Pace, *, is_late: bool) -> Exception:
    if is_late:
        return DeadlineExceededError("The deadline passed while the body was read; allow more time.")
    least = f"{pace.min_bytes_per_s * pace.span_s:,.0f} bytes in {pace.span_s:g} s"
    detail = f"The body came more slowly than {least}; send it again, or as application/x-ndjson if it takes long to make."
    return ProblemError("body_stalled", detail, headers={"Connection": "close"})


class AbandonedOnDisconnect:
    """Cancels its block when the client hangs up, so that its queued work is dropped. Raises `ClientDisconnect` then.

    To be entered once the body has been read: from then on the server has nothing to tell but the end of the connection. The
    service's own protocol calls back (`app.protocol`); under another server a task waits for its word, which costs 20 us.
    """

    __slots__ = ("_connection", "_has_gone", "_receive", "_watcher", "_worker")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._connection: dict[str, Any] | None = scope.get("extensions", {}).get("itemlens.connection")
        self._watcher: asyncio.Task[None] | None = None
        self._has_gone = False

    async def __aenter__(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None  # noqa: S101  (a coroutine always runs in a task)
        self._worker = worker
        if self._connection is None or "on_lost" not in self._connection:
            self._watcher = asyncio.create_task(self._watch())
        elif self._connection["is_lost"]:
            raise ClientDisconnect
        else:
            self._connection["on_lost"] = self._abandon

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        elif self._connection is not None:
            self._connection["on_lost"] = None
        # Only the cancellation of ours may be swallowed; the server's own, at shutdown, has to pass.
        if kind is asyncio.CancelledError and self._has_gone and self._worker.uncancel() == 0:
            raise ClientDisconnect from None

    def _abandon(self) -> None:
        self._has_gone = True
        self._worker.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._abandon()
