"""One buffer receives for all connections, and nobody notices."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from app.receiver import RECEIVE_BYTES, receiving
from app.settings import Settings
from tests.api.listening import connected, is_whole, listening, request
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

JSON = "Content-Type: application/json"


def asking(letter: str) -> bytes:
    body = json.dumps({"items": [{"id": letter * 128, "text": letter * 150}]}).encode()
    return request("/v1/classify", body, JSON, f"X-Request-ID: {letter * 100}")


async def test_connections_that_send_in_turns_do_not_mix() -> None:
    async with listening(Settings(), FakeEngine()) as port, connected(port) as one, connected(port) as two:
        sent = {client: asking(letter) for client, letter in ((one, "a"), (two, "b"))}
        for at in range(0, max(map(len, sent.values())), 41):
            for client, wire in sent.items():
                client.send(wire[at : at + 41])
            await asyncio.sleep(0.001)
        for client, letter in ((one, b"a"), (two, b"b")):
            answer = await client.receive(is_whole)
            assert b"HTTP/1.1 200" in answer
            assert b"x-request-id: " + letter * 100 in answer
            assert b'"id":"' + letter * 128 + b'"' in answer


async def test_more_than_the_buffer_holds_is_received_whole() -> None:
    photos = "A" * (3 * RECEIVE_BYTES)
    async with listening(Settings(max_image_bytes=4 * RECEIVE_BYTES), FakeEngine()) as port, connected(port) as client:
        body = json.dumps({"items": [{"image": photos}, {"text": "red"}]}).encode()
        answer = await client.ask(request("/v1/classify", body, JSON))
    assert [result["status"] for result in json.loads(answer.partition(b"\r\n\r\n")[2])["results"]] == ["error", "ok"]


def test_servers_do_not_share_a_buffer() -> None:
    kinds: list[Any] = [receiving(cast(Any, asyncio.Protocol)) for _ in range(2)]
    one, another, elsewhere = kinds[0](), kinds[0](), kinds[1]()
    assert one.get_buffer(-1) is another.get_buffer(-1)
    assert one.get_buffer(-1) is not elsewhere.get_buffer(-1)
