"""The quick way writes what uvicorn's own would, and leaves to it what it does not know."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.request_cycle import RequestCycle

pytestmark = pytest.mark.anyio

LENGTH = (b"content-length", b"4")


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def resume_reading(self) -> None:
        pass


def cycle_on(transport: Transport, *, method: str = "POST", keep_alive: bool = True) -> tuple[RequestResponseCycle, list[str]]:
    """And the list to which its end is added."""
    ends: list[str] = []
    flow = FlowControl(cast(Any, transport))
    cycle = RequestResponseCycle(
        scope=cast(Any, {"type": "http", "method": method, "http_version": "1.1"}),
        transport=cast(Any, transport),
        flow=flow,
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: ends.append("end"),
    )
    return cycle, ends


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, *, more: bool | None = None) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content} | ({} if more is None else {"more_body": more})


async def sent(messages: list[dict[str, Any]], *, is_quick: bool, **options: Any) -> tuple[bytes, Any]:
    """What is written, and how it ended."""
    transport = Transport()
    cycle, ends = cycle_on(transport, **options)
    if is_quick:
        RequestCycle.take_over(cycle)
    failure = None
    for message in messages:
        try:
            await cycle.send(cast(Any, message))
        except RuntimeError as error:
            failure = str(error)
            cycle.transport.close()
            break
    state = (failure, ends, transport.is_closed, cycle.keep_alive, cycle.response_started, cycle.response_complete)
    return b"".join(transport.written), (*state, cycle.message_event.is_set())


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize(
    "messages",
    [
        [start(LENGTH, (b"X-Request-ID", b"a b\tc")), body(b"four")],
        [start((b"Content-Length", b"4")), body(b"four", more=False)],
        [start(LENGTH), body(b"fo", more=True), body(b"ur")],
        [start(LENGTH), body(b"fo", more=True), body(b"ur", more=True), body(b"")],
        [start(LENGTH), body(b"short")],
        [start(LENGTH), body(b"fo")],
        [start(LENGTH), body(b"four"), body(b"four")],
        [start(LENGTH), start(LENGTH)],
        [start((b"content-length", b"0"), status=204), body(b"")],
        [start(status=204), {"type": "http.response.body"}],
        [start((b"content-type", b"text/plain")), body(b"one", more=True), body(b"two")],
        [start((b"transfer-encoding", b"chunked")), body(b"one", more=True), body(b"")],
        [start(LENGTH, (b"connection", b"close")), body(b"four")],
        [start(LENGTH, (b"connection", b"keep-alive")), body(b"four")],
        [start(LENGTH, (b"x-name", "ü".encode())), body(b"four")],
        [start(LENGTH, (b"x-name", b"one\r\nset-cookie: two")), body(b"four")],
        [start(LENGTH, (b"x-name", b"one\nset-cookie: two")), body(b"four")],
        [start(LENGTH, (b"x-name\r\nset-cookie", b"two")), body(b"four")],
        [start(LENGTH, (b"x-name", b"\x00")), body(b"four")],
        [start((b"content-length", b"four")), body(b"four")],
        [body(b"four")],
    ],
)
async def test_an_answer_is_written_as_uvicorn_writes_it(messages: list[dict[str, Any]], method: str, keep_alive: bool) -> None:
    try:
        expected = await sent(messages, is_quick=False, method=method, keep_alive=keep_alive)
    except ValueError:  # of a length that is no number
        with pytest.raises(ValueError, match="four"):
            await sent(messages, is_quick=True, method=method, keep_alive=keep_alive)
        return
    assert await sent(messages, is_quick=True, method=method, keep_alive=keep_alive) == expected


async def test_nothing_is_written_to_who_has_gone() -> None:
    transport = Transport()
    cycle, ends = cycle_on(transport)
    RequestCycle.take_over(cycle)
    cycle.disconnected = True
    await cycle.send(cast(Any, start(LENGTH)))
    await cycle.send(cast(Any, body(b"four")))
    assert (transport.written, ends) == ([], [])


async def test_a_body_is_received_in_what_it_came_in() -> None:
    cycle, _ = cycle_on(Transport())
    RequestCycle.take_over(cycle)
    quick = cast(RequestCycle, cycle)
    piece = b"a piece"
    quick.add(piece)
    assert quick.unread_bytes == len(piece)
    message = cast("dict[str, Any]", await quick.receive())
    assert (message["body"], message["more_body"]) == (piece, True)
    assert message["body"] is piece
    quick.add(b"two ")
    quick.add(b"more")
    quick.more_body = False
    message = cast("dict[str, Any]", await quick.receive())
    assert (message["body"], message["more_body"], quick.unread_bytes) == (b"two more", False, 0)
