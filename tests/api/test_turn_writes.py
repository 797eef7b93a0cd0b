"""What is written in one turn of the loop leaves together, in order, and before any end but an abort."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any, cast

import pytest

from app import lone_client
from app.connection_room import MOST_LEAVING, ConnectionRoom
from app.settings import Settings
from app.turn_writes import MOST_HELD_BYTES, TurnWrites
from tests.api.listening import connected, listening, request, serving
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class Kernel:
    """Takes what is written, up to `room` bytes."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.calls: list[Any] = []
        self.room = room

    def write(self, data: bytes) -> None:
        self.calls.append(data)
        self.room -= len(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.calls.append(list(pieces))
        self.room -= sum(map(len, pieces))

    def get_write_buffer_size(self) -> int:
        return max(0, -self.room)

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def write_eof(self) -> None:
        self.calls.append("eof")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def writing(kernel: Kernel, unsent: list[str] | None = None) -> TurnWrites:
    found = [] if unsent is None else unsent
    return TurnWrites(cast(Any, kernel), asyncio.get_running_loop(), lambda: found.append("unsent"))


async def test_what_is_written_in_one_turn_leaves_in_one_write_at_its_end() -> None:
    kernel = Kernel()
    writes = writing(kernel)
    writes.write(HEAD)
    writes.write(b"")
    writes.write(b"four")
    assert kernel.calls == []
    await asyncio.sleep(0)
    assert kernel.calls == [HEAD + b"four"]
    writes.write(b"next")
    await asyncio.sleep(0)
    assert kernel.calls == [HEAD + b"four", b"next"]


async def test_the_answers_of_a_turn_leave_one_after_the_other_once_all_are_made() -> None:
    order: list[str] = []

    class Noted(Kernel):
        def write(self, data: bytes) -> None:
            order.append(f"sent {data.decode()}")

    connections = [writing(Noted()) for _ in range(3)]

    async def answer(number: int) -> None:
        connections[number].write(b"%d" % number)
        order.append(f"made {number}")

    await asyncio.gather(*map(answer, range(3)))
    assert order == ["made 0", "made 1", "made 2", "sent 0", "sent 1", "sent 2"]


async def test_flushing_sends_at_once_and_once() -> None:
    kernel = Kernel()
    writes = writing(kernel)
    writes.write(b"one")
    writes.flush()
    assert kernel.calls == [b"one"]
    await asyncio.sleep(0)
    assert kernel.calls == [b"one"]


async def test_a_large_body_is_sent_at_once_and_stays_the_one_object_that_all_its_readers_share() -> None:
    kernel = Kernel()
    writes = writing(kernel)
    body = bytes(MOST_HELD_BYTES)
    writes.write(HEAD)
    writes.write(body)
    assert kernel.calls == [[HEAD, body]]
    assert kernel.calls[0][1] is body


@pytest.mark.parametrize(("end", "name"), [("close", "close"), ("write_eof", "eof"), ("reset", "abort")])
async def test_what_was_written_is_sent_before_the_end(end: str, name: str) -> None:
    kernel = Kernel()
    writes = writing(kernel)
    writes.write(HEAD)
    getattr(writes, end)()
    await asyncio.sleep(0)
    assert kernel.calls == [HEAD, name]


async def test_nothing_is_sent_once_the_connection_is_cut() -> None:
    kernel = Kernel()
    writes = writing(kernel)
    writes.write(HEAD)
    writes.abort()
    await asyncio.sleep(0)
    assert kernel.calls == ["abort"]


async def test_it_is_told_when_the_kernel_did_not_take_all_until_it_is_let_go() -> None:
    unsent: list[str] = []
    writes = writing(Kernel(room=6), unsent)
    writes.write(b"four")
    writes.flush()
    assert unsent == []
    writes.write(b"four")
    writes.flush()
    assert unsent == ["unsent"]
    writes.let_go()
    writes.write(b"four")
    writes.flush()
    assert unsent == ["unsent"]


async def test_pipelined_answers_come_in_their_order() -> None:
    json_body = "Content-Type: application/json"
    asked = [
        request("/v1/classify", b'{"items":[{"text":"red"}]}', json_body, "X-Request-ID: one"),
        request("/nowhere", b"", "X-Request-ID: two"),
        request("/v1/classify", b"{", json_body, "X-Request-ID: three"),
    ]
    async with listening(Settings(), FakeEngine()) as port, connected(port) as client:
        client.send(b"".join(asked))
        received = await client.receive(lambda so_far: so_far.count(b"\r\n\r\n") == len(asked))
    assert re.findall(rb"x-request-id: (\w+)", received) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_an_answer_that_was_made_before_its_client_was_seen_to_end_its_side_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lone_client, "ALONE_S", 60.0)  # whose answers do not wait for the turn's end
    async with serving(Settings()) as (port, server), connected(port) as other:
        await other.ask(request("/health/live", method="GET"))
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(5)

            async def answer(scope: Any, receive: Any, send: Any) -> None:
                client.shutdown(socket.SHUT_WR)
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
                await send({"type": "http.response.body", "body": b"four"})

            server.config.loaded_app = answer
            client.sendall(request("/", method="GET"))
            assert (await asyncio.to_thread(client.makefile("rb").read)).endswith(b"\r\n\r\nfour")


async def test_who_has_just_been_answered_is_answered_though_others_need_the_place() -> None:
    room = ConnectionRoom(1)
    for _ in range(MOST_LEAVING):
        assert room.may_leave_in_order(cast(Any, object()))
    kernel = Kernel()

    class Answered:
        transport = writing(kernel)

    answered = Answered()
    assert room.enter(answered)
    answered.transport.write(HEAD)
    room.idle[answered] = None
    assert room.enter(cast(Any, object()))
    assert kernel.calls[0] == HEAD
    assert kernel.calls[-1] == "abort"


async def test_what_is_held_leaves_when_it_is_told_to_and_with_no_turns_end() -> None:
    kernel = Kernel()
    transport = writing(kernel)
    transport.hold(b"later")
    await asyncio.sleep(0)
    assert kernel.calls == []
    transport.flush()
    assert kernel.calls == [b"later"]


async def test_what_is_held_leaves_before_what_is_written_after_it_and_before_an_end() -> None:
    kernel = Kernel()
    transport = writing(kernel)
    transport.hold(b"first,")
    transport.write(b"second")
    await asyncio.sleep(0)
    transport.hold(b"last")
    transport.close()
    assert kernel.calls == [b"first,second", b"last", "close"]


async def test_no_more_is_held_than_may_wait() -> None:
    kernel = Kernel()
    transport = writing(kernel)
    transport.hold(b"x" * MOST_HELD_BYTES)
    assert kernel.calls == []
    transport.hold(b"y")
    assert kernel.get_write_buffer_size() == 0
    assert len(kernel.calls) == 1
