"""A client is alone with its worker while no other connection asks."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.lone_client import ALONE_S, LoneClient
from app.settings import Settings
from tests.api.listening import connected, listening, request
from tests.conftest import FakeEngine

JSON = "Content-Type: application/json"
ONE = json.dumps({"items": [{"text": "red"}]}).encode()


def test_one_connection_is_alone_however_often_it_asks() -> None:
    lone, connection = LoneClient(), object()
    assert all(lone.ask(connection, now) for now in (5.0, 5.001, 5.002, 9.0))


def test_two_that_take_turns_are_not() -> None:
    lone, one, other = LoneClient(), object(), object()
    assert lone.ask(one, 5.0)
    assert not lone.ask(other, 5.003)
    assert not lone.ask(one, 5.006)
    assert not lone.ask(one, 5.006 + ALONE_S / 2)
    assert lone.ask(one, 5.004 + ALONE_S)


def test_connections_that_ask_now_and_then_are_alone_with_each_request() -> None:
    lone = LoneClient()
    assert all(lone.ask(object(), second) for second in range(5))


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/embed"])
async def test_the_engine_may_hold_the_loop_for_a_lone_client_alone(path: str) -> None:
    engine = FakeEngine()
    async with listening(Settings(), engine) as port, connected(port) as one, connected(port) as other:
        for client in (one, one, other, one):
            assert b" 200 " in (await client.ask(request(path, ONE, JSON)))[:20]
        await asyncio.sleep(2 * ALONE_S)
        await one.ask(request(path, ONE, JSON))
    assert engine.may_hold_loop == [True, True, False, False, True]


@pytest.mark.anyio
async def test_a_stream_never_holds_the_loop() -> None:
    engine = FakeEngine()
    async with listening(Settings(), engine) as port, connected(port) as client:
        client.send(request("/v1/classify", b'{"text": "red"}\n{"text": "green"}\n', "Content-Type: application/x-ndjson"))
        await client.receive(lambda received: received.count(b'"index"') == 2)
    assert not any(engine.may_hold_loop)
