"""What one connection may cost: heads, time, connections. Over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from app import metrics
from app.connection_limits import LimitedHttpProtocol
from app.main import create_app
from app.settings import Settings
from tests.api.listening import Client, connected, is_whole, listening, request
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

SPAN_S = 0.25
LATE_S = 1.5
"""Later than a slow client may be closed, on a machine that is busy with other things."""
ONE = json.dumps({"items": [{"text": "red"}]}).encode()
JSON = "Content-Type: application/json"
LINES = "Content-Type: application/x-ndjson"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: itemlens\r\n\r\n"
LARGE = b"GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: itemlens\r\n\r\n"


@pytest.fixture(params=["uvloop", pytest.param("asyncio", marks=pytest.mark.slow)])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop has no wheels for this system")
    return ("asyncio", {"use_uvloop": request.param == "uvloop"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    settings = Settings(slow_client_timeout_s=SPAN_S, min_client_bytes_per_s=1000, api_keys_sha256=())
    async with listening(settings) as port:
        yield port


def ended(reason: str) -> float:
    return float(metrics.ENDED_CONNECTIONS.labels(reason)._value.get())


async def until_closed(client: Client) -> tuple[bytes, float]:
    """What came, and after how many seconds the service closed."""
    began_s = time.monotonic()
    return await client.receive(), time.monotonic() - began_s


async def test_an_unfinished_head_is_408_in_time(port: int) -> None:
    before = ended("slow_head")
    for sent in (b"G", b"\r\n", b"POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\nX-A: "):
        async with connected(port) as client:
            client.send(sent)
            received, after_s = await until_closed(client)
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"x-content-type-options: nosniff" in received
        assert SPAN_S * 0.9 < after_s < LATE_S
    assert ended("slow_head") == before + 3


async def test_sending_a_head_byte_by_byte_does_not_prolong_its_time(port: int) -> None:
    async with connected(port) as client:
        dribbling = asyncio.create_task(client.dribble(b"GET / HTTP/1.1\r\nHost: " + b"a" * 200, 0.02))
        received, after_s = await until_closed(client)
        dribbling.cancel()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert after_s < LATE_S


async def test_an_idle_connection_is_not_slow(port: int) -> None:
    async with connected(port) as fresh, connected(port) as kept:
        assert b" 200 " in await kept.ask(LIVE)
        await asyncio.sleep(3 * SPAN_S)
        assert b" 200 " in await kept.ask(LIVE)
        assert b" 200 " in await fresh.ask(LIVE)


async def test_a_connection_is_closed_when_it_has_been_idle_for_long(port: int) -> None:
    async with listening(Settings(keep_alive_s=1)) as short, connected(short) as fresh, connected(short) as kept:
        assert b" 200 " in await kept.ask(LIVE)
        for client in (fresh, kept):
            assert (await until_closed(client))[0] == b""


async def test_a_dribbled_body_is_a_408_problem_in_time(port: int) -> None:
    async with connected(port) as client:
        client.send(request("/v1/classify", ONE.ljust(1000), JSON)[:-1000])
        dribbling = asyncio.create_task(client.dribble(ONE.ljust(1000), 0.02))
        received, after_s = await until_closed(client)
        dribbling.cancel()
    assert received.startswith(b"HTTP/1.1 408 ")
    problem = json.loads(received.split(b"\r\n\r\n", 1)[1])
    assert problem["code"] == "body_stalled"
    assert after_s < LATE_S + SPAN_S  # the rest of the body is thrown away for one more span


async def test_a_burst_does_not_buy_time_for_a_stall(port: int) -> None:
    async with connected(port) as client:
        client.send(request("/v1/classify", ONE.ljust(200_000), JSON)[:-1])
        received, after_s = await until_closed(client)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert after_s < LATE_S + SPAN_S


async def test_a_slow_but_steady_body_is_answered(port: int) -> None:
    body = ONE.ljust(12_000)
    async with connected(port) as client:
        client.send(request("/v1/classify", body, JSON)[: -len(body)])
        for at in range(0, len(body), 1000):  # two spans long, at twenty times the least pace
            client.send(body[at : at + 1000])
            await asyncio.sleep(0.05)
        assert b" 200 " in await client.receive(is_whole)


async def test_a_body_that_outlasts_the_deadline_is_504(port: int) -> None:
    async with connected(port) as client:
        client.send(request("/v1/classify", ONE.ljust(9000), JSON, "X-Request-Timeout-Ms: 100")[:-5000])
        received = await client.receive(is_whole)
    assert received.startswith(b"HTTP/1.1 504 ")


async def test_a_body_that_nobody_reads_is_thrown_away_for_a_while_only() -> None:
    settings = Settings(slow_client_timeout_s=SPAN_S, api_keys_sha256=("a" * 64,))
    before = ended("slow_body")
    async with listening(settings) as port, connected(port) as endless, connected(port) as polite:
        endless.send(request("/v1/classify", ONE.ljust(9000), JSON)[:-8000])
        polite.send(request("/v1/classify", ONE.ljust(9000), JSON)[:-8000])
        assert b" 401 " in await endless.receive(is_whole)
        assert b" 401 " in await polite.receive(is_whole)
        polite.send(b" " * 8000)
        assert b" 401 " in await polite.ask(request("/v1/classify", ONE, JSON))  # the connection goes on
        dribbling = asyncio.create_task(endless.dribble(b" " * 500, 0.02))
        _, after_s = await until_closed(endless)
        dribbling.cancel()
        assert after_s < LATE_S
        await asyncio.sleep(SPAN_S)
        assert b" 401 " in await polite.ask(request("/v1/classify", ONE, JSON))
    assert ended("slow_body") == before + 1


async def answers_unread(port: int, receive_buffer_bytes: int = 2048) -> socket.socket:
    """A connection that was sent more than the kernels' buffers hold, of which nothing has been read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", port))
    await loop.sock_sendall(connection, LARGE * 8)
    return connection


@pytest.mark.parametrize("bytes_read", [0, 1], ids=["not read", "read byte by byte"])
async def test_an_answer_that_is_not_read_is_cut_in_time(port: int, bytes_read: int) -> None:
    before, loop = ended("slow_reading"), asyncio.get_running_loop()
    connection = await answers_unread(port)
    began_s = time.monotonic()
    while ended("slow_reading") == before and time.monotonic() - began_s < 2 * LATE_S:
        if bytes_read:
            await loop.sock_recv(connection, bytes_read)
        await asyncio.sleep(0.02)
    after_s = time.monotonic() - began_s
    connection.close()
    assert ended("slow_reading") == before + 1
    assert SPAN_S * 0.9 < after_s < LATE_S


async def test_an_answer_that_fails_in_its_middle_and_is_not_read_is_cut_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """When so little waits for its reader that the application was not told to pause."""
    before, unsent = ended("slow_reading"), asyncio.Event()
    note = LimitedHttpProtocol.left_unsent

    def left_unsent(protocol: LimitedHttpProtocol) -> None:
        unsent.set()
        note(protocol)

    async def pieces() -> AsyncIterator[bytes]:
        while not unsent.is_set():
            yield bytes(4096)
            await asyncio.sleep(0)
        raise RuntimeError

    def create_broken_app(*given: Any, **named: Any) -> FastAPI:
        app = create_app(*given, **named)
        app.add_route("/broken", lambda _: StreamingResponse(pieces()))
        return app

    monkeypatch.setattr(LimitedHttpProtocol, "left_unsent", left_unsent)
    monkeypatch.setattr("tests.api.listening.create_app", create_broken_app)
    async with listening(Settings(slow_client_timeout_s=SPAN_S)) as port, connected(port, receive_buffer_bytes=2048) as client:
        client.send(b"GET /broken HTTP/1.1\r\nHost: itemlens\r\n\r\n")
        async with asyncio.timeout(5):
            await unsent.wait()
        began_s = time.monotonic()
        while ended("slow_reading") == before and time.monotonic() - began_s < 2 * LATE_S:
            await asyncio.sleep(0.02)
    assert ended("slow_reading") == before + 1


async def test_an_answer_that_is_read_steadily_is_sent_to_its_end() -> None:
    """Many spans long, and the service waits for its reader all the time."""
    before, loop = ended("slow_reading"), asyncio.get_running_loop()
    received = 0
    settings = Settings(slow_client_timeout_s=0.1, min_client_bytes_per_s=100_000)
    async with listening(settings) as port:
        connection = await answers_unread(port, 100_000)
        while received < 8_000_000 and (chunk := await loop.sock_recv(connection, 65536)):
            received += len(chunk)
            await asyncio.sleep(0.005)
        connection.close()
    assert received >= 8_000_000
    assert ended("slow_reading") == before


async def test_a_bulk_stream_lives_as_long_as_it_does_not_stall(port: int) -> None:
    line = b'{"text": "red"}\n'
    async with connected(port) as client:
        client.send(request("/v1/classify", line * 2, LINES)[: -2 * len(line)])
        for _ in range(2):
            await asyncio.sleep(SPAN_S * 1.5)
            client.send(line)
        received = await client.receive(lambda data: data.endswith(b"0\r\n\r\n"))
    assert received.count(b'"status":"ok"') == 2


async def test_a_connection_too_many_takes_the_place_of_the_longest_idle_one() -> None:
    before = ended("idle_for_another")
    async with listening(Settings(max_connections=8)) as port, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(port)) for _ in range(8)]
        for client in clients:
            assert b" 200 " in await client.ask(LIVE)
        assert b" 200 " in await clients[0].ask(LIVE)
        newest = await stack.enter_async_context(connected(port))
        assert b" 200 " in await newest.ask(LIVE)
        assert [await client.is_open() for client in clients] == [True, False, *[True] * 6]
    assert ended("idle_for_another") == before + 1


async def test_a_connection_too_many_is_503_when_all_others_are_busy() -> None:
    engine = FakeEngine()
    engine.delay_s = 60
    async with listening(Settings(max_connections=8), engine) as port, AsyncExitStack() as stack:
        for number in range(8):
            client = await stack.enter_async_context(connected(port))
            # Some wait for their answer, others send theirs.
            client.send(request("/v1/classify", ONE, JSON) if number % 2 else b"GET / HTTP/1.1\r\n")
        while engine.running < 4:
            await asyncio.sleep(0.01)
        refused = await stack.enter_async_context(connected(port))
        received = await refused.receive()
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in received
        # What it sends is taken: a reset would overtake the answer.
        for _ in range(5):
            sending = await stack.enter_async_context(connected(port))
            for _ in range(5):
                sending.send(b"a" * 20_000)
                await sending.writer.drain()
                await asyncio.sleep(0.01)
            assert (await sending.receive(is_whole)).startswith(b"HTTP/1.1 503 ")


HEADS = {
    "long url": (f"GET /health/live?{'a' * 8200} HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "long value": (f"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: {'a' * 16400}\r\n\r\n", 431),
    "long name": (f"GET /health/live HTTP/1.1\r\nHost: x\r\n{'a' * 16400}: 1\r\n\r\n", 431),
    "many headers": ("GET /health/live HTTP/1.1\r\nHost: x\r\n" + "X-A: b\r\n" * 100 + "\r\n", 431),
    "large headers": ("GET /health/live HTTP/1.1\r\nHost: x\r\n" + f"X-A: {'b' * 400}\r\n" * 50 + "\r\n", 431),
    "all large enough": (f"GET /health/live?{'a' * 8000} HTTP/1.1\r\nHost: x\r\nX-A: {'a' * 8000}\r\n\r\n", 200),
    "all many enough": ("GET /health/live HTTP/1.1\r\nHost: x\r\n" + "X-A: b\r\n" * 98 + "\r\n", 200),
}


async def test_heads_are_bounded(port: int) -> None:
    for name, (head, status) in HEADS.items():
        for piece_bytes in (100_000, 1000):
            async with connected(port) as client:
                for at in range(0, len(head), piece_bytes):
                    client.send(head[at : at + piece_bytes].encode())
                    await asyncio.sleep(0.001)
                received = await client.receive(is_whole)
            assert received.startswith(b"HTTP/1.1 %d " % status), (name, piece_bytes, received)


async def test_a_head_without_end_is_refused_when_it_is_too_large(port: int) -> None:
    """The parser keeps an unfinished field to itself, so it has to be counted before."""
    for start in ("GET /", "GET / HTTP/1.1\r\nHost: x\r\nX-A: ", "GET / HTTP/1.1\r\nHost: x\r\nX-A"):
        sent = 0
        async with connected(port) as client:
            client.send(start.encode())
            refused = asyncio.create_task(client.receive(is_whole))
            while not refused.done() and sent < 10_000_000:
                client.send(b"a" * 10_000)
                await client.writer.drain()
                sent += 10_000
                await asyncio.sleep(0.002)
            assert (await refused).startswith((b"HTTP/1.1 414 ", b"HTTP/1.1 431 "))
        assert sent < 1_000_000


async def test_a_body_of_framing_alone_is_refused(port: int) -> None:
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\n{LINES}\r\nTransfer-Encoding: chunked\r\n\r\n"
    for start, more in (("", b"1;" + b"a" * 30 + b"\r\nx\r\n"), ("0\r\nTrailer: ", b"a" * 37)):
        sent = 0
        async with connected(port) as client:
            client.send((head + start).encode())
            closed = asyncio.create_task(client.receive())
            while not closed.done() and sent < 10_000_000:
                client.send(more * 300)
                await client.writer.drain()
                sent += len(more) * 300
                await asyncio.sleep(0.002)
            await closed
        assert sent < 2_000_000


async def test_trailers_change_nothing(port: int) -> None:
    """They come after all was decided by the headers."""
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"%x\r\n%s\r\n0\r\nContent-Type: text/plain\r\nX-Request-ID: trailer\r\n\r\n" % (len(ONE), ONE)
    async with connected(port) as client:
        received = await client.ask(head.encode() + body)
        assert b" 200 " in received
        assert b"trailer" not in received
        assert b" 200 " in await client.ask(LIVE)


async def test_what_came_before_rubbish_is_answered_before_it(port: int) -> None:
    engine = FakeEngine()
    engine.delay_s = 0.2
    async with listening(Settings(), engine) as slow, connected(slow) as client:
        client.send(request("/v1/classify", ONE, JSON) * 2 + b"\x00rubbish\r\n\r\n")
        received = await client.receive()
    assert received.count(b"HTTP/1.1 ") == 2
    assert received.count(b"HTTP/1.1 200 ") == 2


async def test_a_body_that_turns_into_rubbish_is_400_and_its_work_is_dropped(port: int) -> None:
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected(port) as client:
        client.send(head.encode() + b"3\r\nabc\r\n")
        await asyncio.sleep(0.05)
        client.send(b"zz\r\n")
        received = await client.receive()
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


async def test_what_was_refused_is_not_refused_again_for_being_slow() -> None:
    """It lingers for a second, in which the time of its unfinished head may run out, too."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with listening(Settings(slow_client_timeout_s=0.8)) as port, connected(port) as client:
        client.send(b"GET /health/live HTTP/1.1\r\nHost: itemlens\r\n")
        await asyncio.sleep(0.1)
        client.send(b"no colon\r\n\r\n")
        assert (await client.receive()).startswith(b"HTTP/1.1 400 ")
        await asyncio.sleep(1.0)
    assert faults == []


async def test_connections_that_were_refused_are_let_go(port: int) -> None:
    """An exception that is raised again keeps what it was raised in before: the connection, and what had come on it."""
    bad_heads = (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        LIVE[:-2] + b"A: b\r\n" * 500,
    )
    for _ in range(10):
        for head in bad_heads:
            async with connected(port) as client:
                client.send(head)
                await client.receive()
    await asyncio.sleep(0.1)
    gc.collect()
    assert sum(isinstance(thing, LimitedHttpProtocol) for thing in gc.get_objects()) <= len(bad_heads)
