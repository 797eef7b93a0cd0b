"""What the service changes in uvicorn's HTTP, over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from app.protocol import UNREAD_BODY_BYTES
from app.settings import Settings
from tests.api.listening import connected, listening, request, serving
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

JSON = "Content-Type: application/json"
ONE = json.dumps({"items": [{"text": "red"}]}).encode()
EXPECT = "Expect: 100-continue"


async def test_the_work_of_a_client_that_hangs_up_is_cancelled() -> None:
    engine = FakeEngine()
    engine.delay_s = 30.0
    async with listening(Settings(), engine) as port:
        async with connected(port) as client:
            client.send(request("/v1/classify", ONE, JSON))
            async with asyncio.timeout(5):
                while not engine.running:
                    await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            while not engine.cancelled:
                await asyncio.sleep(0.005)
        assert engine.running == 0


async def test_a_client_that_ends_its_own_side_has_gone() -> None:
    """One that closed both sides looks the same until something is written to it, and its work is to be dropped."""
    engine = FakeEngine()
    engine.delay_s = 30.0
    async with listening(Settings(), engine) as port, connected(port) as client:
        client.send(request("/v1/classify", ONE, JSON))
        client.writer.write_eof()
        assert await client.receive(timeout_s=5) == b""
    assert engine.running == 0


@pytest.mark.parametrize("size", [UNREAD_BODY_BYTES - 1000, 3 * UNREAD_BODY_BYTES])
async def test_bodies_around_the_bound_arrive_whole(size: int) -> None:
    engine = FakeEngine()
    engine.max_text_chars = 10_000_000
    body = json.dumps({"items": [{"text": "red " + "x" * size}]}).encode()
    async with listening(Settings(max_text_chars=1_000_000), engine) as port, connected(port) as client:
        for _ in range(2):
            assert (await client.ask(request("/v1/classify", body, JSON))).startswith(b"HTTP/1.1 200")


async def test_a_head_request_is_answered_without_a_body() -> None:
    async with listening(Settings()) as port, connected(port) as client:
        client.send(request("/health/live", method="HEAD"))
        assert (await client.receive(lambda received: received.endswith(b"\r\n\r\n"))).startswith(b"HTTP/1.1 ")


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    async with listening(Settings()) as port, connected(port) as client:
        for _ in range(2):
            client.send(request("/v1/classify", ONE, JSON, EXPECT)[: -len(ONE)])
            assert await client.receive(lambda received: received.endswith(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert (await client.ask(ONE)).startswith(b"HTTP/1.1 200")


async def test_a_client_that_does_not_wait_is_answered_like_any_other() -> None:
    async with listening(Settings()) as port, connected(port) as client:
        whole = request("/v1/classify", ONE, JSON, EXPECT)
        client.send(whole + request("/health/live", method="GET") + whole)
        received = await client.receive(lambda received: received.count(b"HTTP/1.1 200 ") == 3 or b"HTTP/1.1 5" in received)
        assert received.count(b"HTTP/1.1 200 ") == 3, received


async def test_nobody_is_asked_for_a_body_that_is_already_refused(capsys: pytest.CaptureFixture[str]) -> None:
    async with listening(Settings()) as port, connected(port) as client:
        head = request("/v1/classify", b"", JSON, EXPECT, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        client.send(head + b"no chunk\r\n")
        assert (await client.receive()).startswith(b"HTTP/1.1 400")
    assert "unhandled_error" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "method", "content_type", "status"),
    [
        ("/v1/classify", "POST", "text/plain", 415),
        ("/nope", "POST", "application/json", 404),
        ("/v1/models", "POST", "application/json", 405),
        ("/v1/classify?top_k=0", "POST", "application/x-ndjson", 422),
    ],
)
async def test_who_waits_to_be_asked_and_is_refused_is_closed(path: str, method: str, content_type: str, status: int) -> None:
    """What it sends next would be taken for the body."""
    async with listening(Settings()) as port, connected(port) as client:
        client.send(request(path, ONE, f"Content-Type: {content_type}", EXPECT, method=method)[: -len(ONE)])
        received = await client.receive()
        assert received.startswith(b"HTTP/1.1 %d " % status)
        assert received.lower().count(b"\r\nconnection: close\r\n") == 1


@pytest.mark.parametrize("connection", ["Connection: keep-alive", "Connection: close"])
async def test_a_stream_to_http_1_0_has_no_chunks_and_ends_with_its_connection(connection: str) -> None:
    lines = b'{"text":"red"}\n{"text":"blue"}\n'
    async with listening(Settings()) as port, connected(port) as client:
        old = request("/v1/classify", lines, "Content-Type: application/x-ndjson", connection).replace(b"HTTP/1.1", b"HTTP/1.0")
        client.send(old)
        head, _, body = (await client.receive()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in head.lower()
    assert [json.loads(line)["status"] for line in body.splitlines()] == ["ok", "ok"]


async def test_an_answer_of_known_length_to_http_1_0_is_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    async with listening(Settings()) as port, connected(port) as client:
        client.send(request("/health/live", method="GET").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await client.receive()).endswith(b'{"status":"ok"}')
    assert "unhandled_error" not in capsys.readouterr().out


async def test_a_stream_to_http_1_0_that_breaks_off_does_not_look_whole() -> None:
    """Its end would be the end of the body."""

    async def break_off(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(0.05)
        raise RuntimeError

    async with serving(Settings()) as (port, server):
        server.config.loaded_app = break_off
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/v1/classify", b"", method="GET").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b"half" in await reader.readuntil(b"half")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()


async def test_http_1_0_is_never_asked_to_go_on() -> None:
    async with listening(Settings()) as port, connected(port) as client:
        client.send(request("/v1/classify", ONE, JSON, EXPECT).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await client.receive()).startswith(b"HTTP/1.1 200")


async def test_without_a_body_there_is_nothing_to_wait_for() -> None:
    async with listening(Settings()) as port, connected(port) as client:
        for _ in range(2):
            answer = await client.ask(request("/health/live", b"", EXPECT, method="GET"))
            assert answer.startswith(b"HTTP/1.1 200"), answer


async def test_a_refusal_reaches_a_client_that_sends_its_body_all_the_same() -> None:
    """Closing on what is still coming would reset the connection, and the reset may overtake the answer."""
    body = b"x" * 5_000_000
    async with listening(Settings()) as port:
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request("/v1/classify", body, "Content-Type: text/plain", EXPECT))
            await writer.drain()
            assert (await reader.read()).startswith(b"HTTP/1.1 415 ")
            writer.transport.abort()


async def test_white_space_after_a_headers_value_is_no_part_of_it() -> None:
    async with listening(Settings()) as port, connected(port) as client:
        answer = await client.ask(request("/v1/classify", ONE, JSON, "X-Request-Timeout-Ms: 5000 ", "X-Request-ID: abc \t"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nx-request-id: abc\r\n" in answer


async def test_a_stopping_service_is_not_ready() -> None:
    """A load balancer that kept its connection learns it there."""
    engine = FakeEngine()
    engine.delay_s = 0.5
    async with serving(Settings(), engine) as (port, server), connected(port) as busy, connected(port) as probe:
        ready = request("/health/ready", method="GET")
        assert (await probe.ask(ready)).startswith(b"HTTP/1.1 200")
        busy.send(request("/v1/classify", ONE, JSON))
        server.should_exit = True
        await asyncio.sleep(0.25)
        assert (await probe.ask(ready)).startswith(b"HTTP/1.1 503")
        assert (await busy.receive()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_closing_for_a_request_whose_client_has_gone_is_no_error() -> None:
    """As the server does for one that fails, or is cancelled at the end, in that moment."""
    async with serving(Settings()) as (port, server):
        open_connections = cast("set[Any]", server.server_state.connections)
        async with connected(port) as client:
            client.send(request("/v1/classify", ONE.ljust(1000), JSON)[:-500])
            while not (cycles := [connection.cycle for connection in open_connections if connection.cycle is not None]):
                await asyncio.sleep(0.01)
        while open_connections:
            await asyncio.sleep(0.01)
        cycles[0].transport.close()
