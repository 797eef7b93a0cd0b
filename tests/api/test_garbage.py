"""Neither a request nor a connection is left to the garbage collector, however it ends."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.settings import Settings
from tests.api.listening import is_whole, serving
from tests.garbage import garbage_of

pytestmark = pytest.mark.anyio

GOOD = {"items": [{"text": "Blue Jeans"}]}


def request(body: bytes, *, closes: bool, media_type: bytes = b"application/json") -> bytes:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n" % (media_type, len(body))
    return head + (b"Connection: close\r\n" if closes else b"") + b"\r\n" + body


WIRES = {
    "answered, then left": request(json.dumps(GOOD).encode(), closes=False),
    "answered and closed": request(json.dumps(GOOD).encode(), closes=True),
    "no JSON": request(b"{", closes=True),
    "a wrong option": request(b'{"items": [{"text": "x"}], "top_k": "y"}', closes=False),
    "a single bad item": request(b'{"items": [{"text": 1}]}', closes=False),
    "a bad item among others": request(b'{"items": [{"text": 1}, {"text": "x"}]}', closes=False),
    "a stream with a bad line": request(b'{"text": "x"}\n' * 40 + b"{bad\n", closes=True, media_type=b"application/x-ndjson"),
    "a stream that is refused": request(b"", closes=True, media_type=b"application/x-ndjson"),
    "no HTTP": b"HELO x\r\n\r\n",
    "left in the body": request(json.dumps(GOOD).encode(), closes=False)[:-5],
}


@pytest.mark.parametrize("name", WIRES)
async def test_a_connection_leaves_nothing_behind(name: str) -> None:
    async def use(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(WIRES[name])
        received = b""
        while name != "left in the body" and not is_whole(received):
            data = await reader.read(65536)
            if not data:
                break
            received += data
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.05)

    async with serving(Settings()) as (port, server):
        await use(port)  # what is made once
        with garbage_of() as garbage:
            for _ in range(3):
                await use(port)
            assert not server.server_state.connections
        assert not garbage
