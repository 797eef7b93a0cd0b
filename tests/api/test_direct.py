"""The direct way to an endpoint says what the framework's way says."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message, Scope

from app.direct import DirectApp
from app.main import create_app
from app.settings import Settings
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

KEY = "a-key-of-a-client"
ONE = json.dumps({"items": [{"text": "red"}]}).encode()
JSON = (b"content-type", b"application/json")


@dataclass
class Sent:
    messages: list[Message] = field(default_factory=list)

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)

    def answer(self) -> tuple[Any, ...]:
        """Status, headers and body without what differs from request to request."""
        head, *rest = self.messages
        body = b"".join(message.get("body", b"") for message in rest)
        headers = [header for header in head["headers"] if header[0] not in (b"server-timing", b"content-length")]
        return head["status"], sorted(headers), body


def scope_of(path: str, *headers: tuple[bytes, bytes], method: str = "POST", query: bytes = b"") -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": query,
        "headers": [(b"host", b"itemlens"), (b"x-request-id", b"r-1"), *headers],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
    }


async def ask(app: Any, scope: Scope, body: bytes) -> tuple[Any, ...]:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop(0) if messages else await asyncio.Future()

    sent = Sent()
    await app(scope, receive, sent)
    return sent.answer()


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        pytest.param("/v1/classify", [JSON], ONE, 200, id="answer"),
        pytest.param("/v1/embed", [JSON], ONE, 200, id="embedding"),
        pytest.param("/v1/classify", [JSON], b'{"items": [', 400, id="malformed"),
        pytest.param("/v1/classify", [JSON], b"{}", 422, id="invalid"),
        pytest.param("/v1/classify", [JSON], b'{"items": [{"text": "red"}], "model": "shoes"}', 404, id="engine-error"),
        pytest.param("/v1/classify", [], ONE, 415, id="content-type"),
        pytest.param("/v1/classify", [JSON, (b"x-request-timeout-ms", b"soon")], ONE, 422, id="deadline"),
        pytest.param("/v1/classify", [JSON, (b"content-length", b"999999999999")], ONE, 413, id="too-large"),
        pytest.param("/v1/classify", [(b"content-type", b"application/x-ndjson")], b'{"text": "red"}\n', 200, id="stream"),
        pytest.param("/v1/classify/", [JSON], ONE, 404, id="other-path"),
    ],
)
async def test_both_ways_answer_alike(path: str, headers: list[tuple[bytes, bytes]], body: bytes, status: int) -> None:
    app = create_app(Settings(), engine=FakeEngine())
    direct = await ask(app, scope_of(path, *headers), body)
    framework = await ask(lambda *call: FastAPI.__call__(app, *call), scope_of(path, *headers), body)
    assert direct[0] == status
    assert direct == framework


async def test_a_fault_and_a_missing_key_are_answered_alike() -> None:
    engine = FakeEngine()

    async def break_down(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a defect")

    engine.classify = break_down  # type: ignore[assignment,method-assign]
    for settings, status in ((Settings(), 500), (Settings(api_keys_sha256=("0" * 64,)), 401)):
        app = create_app(settings, engine=engine)
        direct = await ask(app, scope_of("/v1/classify", JSON), ONE)
        assert direct[0] == status
        assert direct == await ask(lambda *call, app=app: FastAPI.__call__(app, *call), scope_of("/v1/classify", JSON), ONE)


async def test_the_hot_endpoints_do_not_take_the_frameworks_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: object) -> None:
        raise AssertionError("the framework was asked")

    app = create_app(Settings(), engine=FakeEngine())
    assert isinstance(app, DirectApp)
    monkeypatch.setattr(FastAPI, "__call__", refuse)
    for path in ("/v1/classify", "/v1/embed"):
        assert (await ask(app, scope_of(path, JSON), ONE))[0] == 200
    with pytest.raises(AssertionError):
        await ask(app, scope_of("/v1/classify", method="GET"), b"")
