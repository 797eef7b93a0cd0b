"""The bytes of all bodies under way are bounded. Over real sockets, for what becomes of a connection is part of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable

import pytest

from app import metrics
from app.api.lines import read_lines
from app.body_budget import BodyBudget, BodyLease
from app.errors import ProblemError
from app.refusals import count_waiting
from app.settings import Settings
from tests.api.listening import connected, is_whole, listening, request
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

BUDGET = 4096
ONE = json.dumps({"items": [{"text": "red"}]}).encode()
LARGE = ONE.ljust(3000)
JSON = "Content-Type: application/json"
LINES = "Content-Type: application/x-ndjson"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: itemlens\r\n\r\n"
CHUNKED = b"POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def port(engine: FakeEngine) -> AsyncIterator[int]:
    async with listening(Settings(max_total_body_bytes=BUDGET, stall_timeout_s=0.3), engine) as port:
        yield port


async def until_held(engine: FakeEngine, requests: int = 1) -> None:
    """Until so many requests are with the engine, whose bodies count until they are answered."""
    async with asyncio.timeout(5):
        while engine.running < requests:
            await asyncio.sleep(0.001)


def refused() -> float:
    count_waiting()
    return float(metrics.REFUSED_REQUESTS.labels("body_bytes")._value.get())


def is_refusal(received: bytes) -> bool:
    head, _, body = received.partition(b"\r\n\r\n")
    return (
        head.startswith(b"HTTP/1.1 503 ")
        and b"\r\nretry-after: 1" in head
        and b"\r\ncontent-type: application/problem+json" in head
        and json.loads(body)["code"] == "overloaded"
    )


async def test_a_body_without_room_is_refused_before_it_is_read_and_its_connection_goes_on(
    port: int, engine: FakeEngine
) -> None:
    engine.delay_s = 60
    before = refused()
    async with connected(port) as first, connected(port) as second:
        first.send(request("/v1/classify", LARGE, JSON))
        await until_held(engine)
        began_s = time.monotonic()
        second.send(request("/v1/classify", LARGE, JSON)[: -len(LARGE)])
        assert is_refusal(await second.receive(is_whole))
        assert time.monotonic() - began_s < 0.5
        second.send(LARGE)
        assert b" 200 " in await second.ask(LIVE)
        engine.delay_s = 0
        assert b" 200 " in await second.ask(request("/v1/classify", ONE, JSON))  # there is room for a small one
    assert refused() == before + 1


async def test_a_body_of_unknown_length_is_refused_where_the_room_ends(port: int, engine: FakeEngine) -> None:
    engine.delay_s = 60
    async with connected(port) as first, connected(port) as second:
        first.send(request("/v1/classify", LARGE, JSON))
        await until_held(engine)
        second.send(CHUNKED % JSON.encode() + b"400\r\n" + b" " * 1024 + b"\r\n")
        assert await second.is_open()
        second.send(b"400\r\n" + b" " * 1024 + b"\r\n")
        assert is_refusal(await second.receive(is_whole))
        second.send(b"0\r\n\r\n")
        assert b" 200 " in await second.ask(LIVE)


@pytest.mark.parametrize("ending", ["answered", "hung up"])
async def test_room_comes_back_when_a_request_is_over(port: int, engine: FakeEngine, ending: str) -> None:
    engine.delay_s = 0.05 if ending == "answered" else 60
    for _ in range(3):
        async with connected(port) as client:
            client.send(request("/v1/classify", LARGE, JSON))
            await until_held(engine)
            if ending == "answered":
                assert b" 200 " in await client.receive(is_whole)
        async with asyncio.timeout(5):
            while engine.running:
                await asyncio.sleep(0.001)


async def test_a_client_that_waits_to_be_asked_for_a_refused_body_is_closed(port: int, engine: FakeEngine) -> None:
    """Whether it sends the body after all cannot be known, so its next request could be taken for one."""
    engine.delay_s = 60
    async with connected(port) as first, connected(port) as second:
        first.send(request("/v1/classify", LARGE, JSON))
        await until_held(engine)
        for body in (LARGE, b" " * 100_000):  # no room for it, and never any
            async with connected(port) as second:
                second.send(request("/v1/classify", body, JSON, "Expect: 100-continue")[: -len(body)])
                received = await second.receive()
            assert received.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 413 "))
            assert b"\r\nconnection: close\r\n" in received.lower()
            assert b"100 Continue" not in received


async def test_a_client_that_waits_to_be_asked_and_has_no_key_is_closed() -> None:
    async with listening(Settings(api_keys_sha256=("a" * 64,))) as port, connected(port) as client:
        client.send(request("/v1/classify", ONE, JSON, "Expect: 100-continue")[: -len(ONE)])
        received = await client.receive()
    assert received.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in received.lower()


async def test_a_body_that_could_never_find_room_is_too_large(port: int) -> None:
    async with connected(port) as client:
        assert b" 413 " in await client.ask(request("/v1/classify", ONE.ljust(BUDGET + 1), JSON))
        assert b" 200 " in await client.ask(request("/v1/classify", ONE.ljust(BUDGET), JSON))


async def test_a_stream_counts_by_what_is_kept_of_it(port: int, engine: FakeEngine) -> None:
    """Twenty times the budget goes through, since an answered line makes room."""
    engine.delay_s = 0.001
    line = json.dumps({"text": "red " * 40}).encode() + b"\n"
    count = 20 * BUDGET // len(line)
    async with connected(port) as client:
        client.send(request("/v1/classify", line * count, LINES))
        received = await client.receive(lambda received: received.endswith(b"0\r\n\r\n"))
    assert received.count(b'"status":"ok"') == count


async def test_a_stream_waits_for_room_and_not_for_ever(port: int, engine: FakeEngine) -> None:
    line = json.dumps({"text": "red"}).encode() + b"\n"
    engine.delay_s = 60
    async with connected(port) as holder, connected(port) as stream:
        holder.send(request("/v1/classify", ONE.ljust(BUDGET - 10), JSON))
        await until_held(engine)
        engine.delay_s = 0
        stream.send(request("/v1/classify", line, LINES))
        assert await stream.is_open()
        holder.writer.transport.abort()
        assert b'"status":"ok"' in await stream.receive(lambda received: received.endswith(b"0\r\n\r\n"))
        engine.delay_s = 60
        async with connected(port) as second:
            second.send(request("/v1/classify", ONE.ljust(BUDGET - 10), JSON))
            await until_held(engine)
            assert is_refusal(await stream.ask(request("/v1/classify", line, LINES)))


LINE = json.dumps({"text": "red"}).encode().ljust(1600) + b"\n"
FIRST_PART = LINE[:1300]
"""Three fill most of the budget, and then none of the three has room for its rest."""


def is_answered(lines: int) -> Callable[[bytes], bool]:
    return lambda received: received.count(b'"index":') >= lines


async def test_half_received_lines_of_several_streams_do_not_wait_for_each_other(port: int) -> None:
    async with connected(port) as first, connected(port) as second, connected(port) as third:
        clients = (first, second, third)
        for _ in range(2):
            for client in clients:
                client.send(request("/v1/classify", LINE * 2, LINES)[: -len(LINE * 2)] + FIRST_PART)
            await asyncio.sleep(0.05)
            for client in clients:
                client.send(LINE[len(FIRST_PART) :] + LINE)
            for client in clients:
                received = await client.receive(lambda received: received.endswith(b"0\r\n\r\n") or is_refusal(received))
                assert received.count(b'"status":"ok"') == 2, received


async def test_a_line_that_others_wait_for_and_that_does_not_come_fails_alone(port: int) -> None:
    async with connected(port) as slow, connected(port) as first, connected(port) as second:
        head = request("/v1/classify", LINE * 2, LINES)[: -len(LINE * 2)]
        for client in (first, slow):  # the second of them has the room that is kept for one
            client.send(head + FIRST_PART)
            await asyncio.sleep(0.02)
        second.send(head + FIRST_PART)
        sent = 7  # for 0.2 s; what comes byte by byte is no stalled body
        await slow.dribble(LINE[len(FIRST_PART) :][:sent], 0.03)
        for client in (first, second):
            client.send(LINE[len(FIRST_PART) :] + LINE)
        for client in (first, second):
            assert (await client.receive(is_answered(2))).count(b'"status":"ok"') == 2
        slow.send(LINE[len(FIRST_PART) + sent :] + LINE)
        failed, answered = [
            json.loads(line) for line in (await slow.receive(is_answered(2))).split(b"\r\n") if line[:1] == b"{"
        ]
    assert (failed["error"]["code"], failed["error"]["status"], failed["index"]) == ("overloaded", 503, 0)
    assert (answered["status"], answered["index"]) == ("ok", 1)


async def test_a_client_that_leaves_leaves_the_kept_room_to_the_next(port: int) -> None:
    async with connected(port) as leaving, connected(port) as first, connected(port) as second:
        head = request("/v1/classify", LINE, LINES)[: -len(LINE)]
        for client in (first, leaving, second):
            client.send(head + FIRST_PART)
            await asyncio.sleep(0.02)
        leaving.writer.transport.abort()
        for client in (second, first):
            client.send(LINE[len(FIRST_PART) :])
            assert b'"status":"ok"' in await client.receive(is_answered(1))


async def test_a_line_may_take_half_of_the_room(port: int) -> None:
    """So that one always finds room beside those that wait."""
    async with connected(port) as client:
        body = LINE.rstrip().ljust(BUDGET // 2) + b"\n" + LINE.rstrip().ljust(BUDGET // 2 + 1) + b"\n"
        client.send(request("/v1/classify", body, LINES))
        fits, too_long = [
            json.loads(line) for line in (await client.receive(is_answered(2))).split(b"\r\n") if line[:1] == b"{"
        ]
    assert (fits["status"], too_long["error"]["code"]) == ("ok", "body_too_large")


async def test_of_lines_only_those_that_are_handed_on_stay_counted() -> None:
    budget = BodyBudget(1000)
    chunks = [b'{"a": 1}\n\n  \n{"b', b'": 2}\n' + b"x" * 70, b"x" * 70, b'yz\n{"c": 3}']

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    lines = [line async for line in read_lines(receive, BodyLease(budget), max_line_bytes=100, stall_timeout_s=1)]
    assert [line.content for line in lines if isinstance(line.content, bytes)] == [b'{"a": 1}', b'{"b": 2}', b'{"c": 3}']
    assert [line.content.type.code for line in lines if isinstance(line.content, ProblemError)] == ["body_too_large"]
    assert budget.held_bytes == sum(line.held_bytes for line in lines) == 24


@pytest.mark.parametrize("blank", [b"\n", b" \n", b"\r\n", b"\t \n"])
async def test_blank_lines_cost_hardly_more_than_their_transfer(blank: bytes) -> None:
    chunks = [blank * (262_144 // len(blank)) for _ in range(16)]
    chunks = [b'{"a": 1}', *chunks, b'{"b": 2}', b"\n", *chunks]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    budget = BodyBudget(1_000_000)
    started = time.process_time()
    lines = [line async for line in read_lines(receive, BodyLease(budget), max_line_bytes=300_000, stall_timeout_s=1)]
    # 8 MiB; one by one they took seconds.
    assert time.process_time() - started < 0.5
    assert [line.content.strip() for line in lines if isinstance(line.content, bytes)] == [b'{"a": 1}', b'{"b": 2}']
    assert budget.held_bytes == sum(line.held_bytes for line in lines)


async def test_a_lease_gives_back_what_it_took_and_no_more() -> None:
    budget = BodyBudget(100)
    first, second = BodyLease(budget), BodyLease(budget)
    first.take(60)
    with pytest.raises(ProblemError) as refusal:
        second.take(41)
    assert refusal.value.headers["Retry-After"] == "1"
    second.take(40)
    assert not budget.has_room(1)
    first.give(10)
    first.close()
    first.close()
    assert budget.held_bytes == 40
    waiting = asyncio.create_task(first.take_in_time(80, reserve_bytes=50, timeout_s=5))
    await asyncio.sleep(0)
    assert budget.held_bytes == 40
    second.close()
    await waiting
    with pytest.raises(ProblemError):
        await second.take_in_time(30, reserve_bytes=50, timeout_s=0.03)
