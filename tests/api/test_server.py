"""The end of the time that a service has to stop: what outlasts it is told so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app.settings import Settings
from tests.api.listening import connected, request, serving
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

JSON = "Content-Type: application/json"
LINES = "Content-Type: application/x-ndjson"
ONE = json.dumps({"items": [{"text": "red"}]}).encode()
SETTINGS = Settings(graceful_shutdown_s=0, log_format="json")


@pytest.fixture(params=["uvloop", pytest.param("asyncio", marks=pytest.mark.slow)])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return ("asyncio", {"use_uvloop": request.param == "uvloop"})


@pytest.fixture
def slow_engine() -> FakeEngine:
    engine = FakeEngine()
    engine.delay_s = 60
    return engine


async def test_a_request_that_outlasts_the_grace_time_is_told_to_come_again(
    slow_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = request("/v1/classify", ONE.ljust(1000), JSON, "X-Request-ID: unfinished")[:-500]
    async with serving(SETTINGS, slow_engine) as (port, server), connected(port) as working, connected(port) as sending:
        working.send(request("/v1/classify", ONE, JSON))
        sending.send(unfinished)
        while slow_engine.running < 1 or len(server.server_state.tasks) < 2:
            await asyncio.sleep(0.01)
        server.should_exit = True
        answers = [await working.receive(), await sending.receive()]
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        for field in (b"content-type: application/problem+json", b"retry-after: 1", b"connection: close", b"x-request-id: "):
            assert field in head.lower()
        assert json.loads(body)["code"] == "not_ready"
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert not [event for event in events if event["level"] == "error"]
    assert [event["count"] for event in events if event["event"] == "requests_ended"] == [2]
    assert [(event["status"], event["code"]) for event in events if event["event"] == "request"] == [(503, "not_ready")] * 2


async def test_an_answer_that_has_begun_is_broken_off(slow_engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    slow_engine.delay_s = 0
    sent = request("/v1/classify", b'{"text": "red"}\n'.ljust(1000), LINES)[:-500]
    async with serving(SETTINGS, slow_engine) as (port, server), connected(port) as client:
        client.send(sent)
        received = await client.receive(lambda received: b'"status":"ok"' in received)
        server.should_exit = True
        received += await client.receive()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert not received.endswith(b"0\r\n\r\n")
    assert '"level":"error"' not in capsys.readouterr().out
