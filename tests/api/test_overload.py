"""What an overloaded service refuses, and what it costs the client: over real sockets."""

from __future__ import annotations

import json
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
KEY_DIGEST = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"  # of "key"


@pytest.fixture
async def port(engine: FakeEngine) -> AsyncIterator[int]:
    engine.is_overloaded = True
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
        engine.is_overloaded = False
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


async def test_a_key_comes_first(engine: FakeEngine) -> None:
    """Or strangers could hold everybody else's gate shut."""
    engine.is_overloaded = True
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
