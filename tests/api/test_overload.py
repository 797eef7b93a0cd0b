"""What an overloaded service refuses, and what it costs the client: over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from app import metrics
from app.refusals import count_waiting
from app.settings import Settings
from tests.api.listening import connected, is_whole, listening, request
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

ONE = json.dumps({"items": [{"text": "red"}]}).encode()
JSON = "Content-Type: application/json"
LINES = "Content-Type: application/x-ndjson"
OLD = b"POST /v1/classify HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(ONE), ONE)
KEY_DIGEST = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"  # of "key"


@pytest.fixture
async def port(engine: FakeEngine) -> AsyncIterator[int]:
    engine.overloaded = True
    async with listening(Settings(log_format="json"), engine) as port:
        yield port


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embed"])
async def test_a_request_is_refused_before_its_body_comes_and_the_connection_goes_on(
    port: int, engine: FakeEngine, path: str
) -> None:
    body = ONE.ljust(200_000)
    async with connected(port) as client:
        client.send(request(path, body, JSON)[: -len(body)])
        received = await client.receive(is_whole)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 2\r\n" in received
        problem = json.loads(received.split(b"\r\n\r\n", 1)[1])
        assert (problem["code"], problem["status"]) == ("overloaded", 503)
        assert problem["request_id"].encode() in received.split(b"\r\n\r\n", 1)[0]
        engine.overloaded = False
        client.send(body)
        assert b" 200 " in await client.ask(request(path, ONE, JSON))
    assert engine.started == 1


async def test_a_stream_and_what_costs_the_engine_nothing_are_let_through(port: int, engine: FakeEngine) -> None:
    async with connected(port) as client:
        client.send(request("/v1/classify", b'{"text": "red"}\n', LINES))
        assert b'"status":"ok"' in await client.receive(lambda received: received.endswith(b"0\r\n\r\n"))
        for path in ("/v1/models", "/health/ready", "/metrics"):
            assert b" 200 " in await client.ask(request(path, method="GET"))
        assert b" 405 " in await client.ask(request("/v1/classify", method="GET"))
        assert b" 404 " in await client.ask(request("/v1/nothing", ONE, JSON))


async def test_what_pages_of_other_origins_may_read_goes_its_usual_way(engine: FakeEngine) -> None:
    engine.overloaded = True
    origin = "https://admin.example.com"
    async with listening(Settings(cors_origins=(origin,)), engine) as port, connected(port) as client:
        received = await client.ask(request("/v1/classify", ONE, JSON, f"Origin: {origin}"))
    assert b" 200 " in received
    assert b"access-control-allow-origin" in received.lower()


@pytest.mark.parametrize("sent", [request("/v1/classify", ONE, JSON, "Expect: 100-continue"), OLD], ids=["expect", "http 1.0"])
async def test_a_connection_that_cannot_go_on_is_closed(port: int, sent: bytes) -> None:
    """Of a client that waits to be asked for its body it is not known whether it sends it."""
    async with connected(port) as client:
        client.send(sent[: -len(ONE)])
        received = await client.receive()
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nconnection: close\r\n" in received
    assert b"100 Continue" not in received


@pytest.mark.parametrize("head", ["HTTP/1.0\r\n", "HTTP/1.1\r\nConnection: close\r\n", "HTTP/1.1\r\nExpect: 100-continue\r\n"])
async def test_a_refusal_reaches_a_client_that_is_still_sending(port: int, head: str) -> None:
    """A reset would overtake it. HTTP/1.0 is what nginx speaks to what is behind it, unless it is told otherwise."""
    body = ONE.ljust(1_000_000)
    fields = f"POST /v1/classify {head}Host: itemlens\r\n{JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(fields.encode())
    for start in range(0, len(body), 100_000):
        writer.write(body[start : start + 100_000])
        await writer.drain()
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        received = await reader.read()
    assert received.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"overloaded"' in received
    writer.close()


@pytest.mark.parametrize("more", [b"", ONE, request("/v1/classify", ONE, JSON)], ids=["nothing", "rubbish", "another request"])
async def test_a_whole_request_is_refused_once_and_closed_at_once(port: int, more: bytes) -> None:
    async with connected(port) as client:
        client.send(request("/v1/classify", ONE, JSON, "Connection: close") + more)
        received = await client.receive(timeout_s=0.8)
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 503 ")


async def test_requests_that_came_together_are_answered_in_order(port: int) -> None:
    """The first is refused unread; what waited for its turn has been read anyway."""
    sent = [request("/v1/classify", ONE, JSON, f"X-Request-ID: request-{number}") for number in range(300)]
    async with connected(port) as client:
        client.send(b"".join(sent))
        received = await client.receive(lambda received: received.count(b"HTTP/1.1 ") == 300)
    ids = [int(number) for number in re.findall(rb"x-request-id: request-(\d+)", received)]
    assert ids == list(range(300))
    assert received.startswith(b"HTTP/1.1 503 ")


async def test_a_stopping_service_closes_what_it_refuses(engine: FakeEngine) -> None:
    engine.overloaded = True
    serving = listening(Settings(), engine)
    port = await serving.__aenter__()
    async with connected(port) as client:
        assert b"connection: close" not in await client.ask(request("/v1/classify", ONE, JSON))
        stopping = asyncio.create_task(serving.__aexit__(None, None, None))
        await asyncio.sleep(0.2)
        assert b"\r\nconnection: close\r\n" in await client.ask(request("/v1/classify", ONE, JSON))
    await stopping


async def test_a_key_comes_first(engine: FakeEngine) -> None:
    """Or strangers could hold everybody else's gate shut."""
    engine.overloaded = True
    async with listening(Settings(api_keys_sha256=(KEY_DIGEST,)), engine) as port, connected(port) as client:
        assert b" 401 " in await client.ask(request("/v1/classify", ONE, JSON))
        assert b" 503 " in await client.ask(request("/v1/classify", ONE, JSON, "X-API-Key: key"))


async def test_refusals_are_counted_and_logged_together(
    port: int, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    count_waiting()
    capsys.readouterr()
    labels = ("POST", "/v1/classify", "503")
    before = metrics.REQUEST_COUNT.labels(*labels)._value.get()
    async with connected(port) as client:
        for _ in range(20):
            assert b" 503 " in await client.ask(request("/v1/classify", ONE, JSON))
    count_waiting()
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} == {"requests_refused"}
    assert sum(event["count"] for event in events) == 20
    assert events[0]["reason"] == "overloaded"
    assert metrics.REQUEST_COUNT.labels(*labels)._value.get() == before + 20
    assert metrics.REFUSED_REQUESTS.labels("overloaded")._value.get() >= 20
