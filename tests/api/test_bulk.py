"""NDJSON: order, isolation, back-pressure, and clients that stall or leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import Message

from app.api.answers import ClassifyLine, EmbedLine, FailedItem
from app.engine.errors import DeadlineExceededError, OverloadedError
from app.main import create_app
from app.settings import Settings
from tests.conftest import FakeEngine, draw_photo, in_base64, open_client

pytestmark = pytest.mark.anyio

NDJSON = {"content-type": "application/x-ndjson"}


def as_lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def ndjson(*items: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


async def test_results_come_in_order_with_index_and_id(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.delay_s = 0.002
    items = [{"id": f"sku-{i}", "text": "red" if i % 2 else "blue"} for i in range(300)]
    response = await client.post("/v1/classify?top_k=1", content=ndjson(*items), headers=NDJSON)
    results = as_lines(response)
    assert [(line["index"], line["id"]) for line in results] == [(i, f"sku-{i}") for i in range(300)]
    labels = [line["attributes"]["baseColour"]["label"] for line in results]
    assert labels == ["Red" if i % 2 else "Blue" for i in range(300)]
    ClassifyLine.model_validate(results[0])


async def test_no_more_than_the_window_is_in_work(engine: FakeEngine) -> None:
    engine.delay_s = 0.001
    app = create_app(Settings(bulk_window_items=8), engine=engine)
    async with open_client(app) as client:
        await client.post("/v1/classify", content=ndjson(*[{"text": "red"}] * 100), headers=NDJSON)
    assert 2 <= engine.most_running <= 8


async def test_a_bad_line_fails_alone_with_pointers_into_the_line(client: httpx.AsyncClient) -> None:
    body = b'{"text": "red"}\n\n  \n{broken\n{"id": "x", "text": 5}\n"str"\n{"a": 1, "a": 2}\n' + ndjson(
        {"image": in_base64(b"plain")}
    )
    response = await client.post("/v1/classify", content=body + b'{"text": "blue"}', headers=NDJSON)
    results = as_lines(response)
    codes = [line.get("error", {}).get("code", "ok") for line in results]
    assert codes == [
        "ok",
        "malformed_json",
        "invalid_item",
        "invalid_item",
        "malformed_json",
        "unsupported_image_type",
        "ok",
    ]
    assert results[2]["id"] == "x"
    assert results[2]["error"]["errors"][0]["pointer"] == "/text"
    for line in results:
        if line["status"] == "error":
            FailedItem.model_validate(line)


async def test_embeddings_stream_too(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/embed?dimensions=8&encoding=base64", content=ndjson({"text": "red"}), headers=NDJSON)
    line = EmbedLine.model_validate(as_lines(response)[0])
    assert (line.dimensions, isinstance(line.embedding, str)) == (8, True)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("top_k=x", 422, "invalid_request"),
        ("top_k=1&top_k=2", 422, "invalid_request"),
        ("unknown=1", 422, "invalid_request"),
        ("top_k=%ff", 422, "invalid_request"),
        ("top_k=1.5", 422, "invalid_request"),
        ("attributes=nope", 422, "unknown_attribute"),
        ("model=nope", 404, "unknown_model"),
    ],
)
async def test_a_bad_option_is_a_status_not_a_line(client: httpx.AsyncClient, query: str, status: int, code: str) -> None:
    requests: list[list[dict[str, str]]] = [[{"text": "red"}], [{}, {"text": "red"}], [{}]]
    for lines in requests:
        response = await client.post(f"/v1/classify?{query}", content=ndjson(*lines), headers=NDJSON)
        assert (response.status_code, response.json()["code"]) == (status, code)


async def test_repeated_attributes_are_a_list(client: httpx.AsyncClient) -> None:
    query = "attributes=baseColour&attributes=titleLength"
    response = await client.post(f"/v1/classify?{query}", content=ndjson({"text": "red"}), headers=NDJSON)
    assert set(as_lines(response)[0]["attributes"]) == {"baseColour", "titleLength"}


async def test_an_empty_body_is_422(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/classify", content=b"\n\n", headers=NDJSON)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["errors"][0]["pointer"] == ""


async def test_a_full_queue_is_waited_for(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.overloads_left = 3
    response = await client.post("/v1/classify", content=ndjson(*[{"text": "red"}] * 10), headers=NDJSON)
    assert [line["status"] for line in as_lines(response)] == ["ok"] * 10


async def test_a_queue_that_stays_full_fails_the_item(engine: FakeEngine) -> None:
    engine.overloads_left = 1000
    app = create_app(Settings(stall_timeout_s=0.04), engine=engine)
    async with open_client(app) as client:
        response = await client.post("/v1/classify", content=ndjson({"text": "red"}), headers=NDJSON)
    assert as_lines(response)[0]["error"]["code"] == "overloaded"


async def test_a_line_over_the_limit_fails_alone_and_is_not_kept(engine: FakeEngine) -> None:
    app = create_app(Settings(max_image_bytes=1024, max_text_chars=10), engine=engine)
    long_line = ndjson({"image": "A" * 200_000})

    async def chunks() -> AsyncIterator[bytes]:
        yield ndjson({"text": "red"})
        for at in range(0, len(long_line), 1000):
            yield long_line[at : at + 1000]
        yield ndjson({"text": "blue"})

    async with open_client(app) as client:
        response = await client.post("/v1/classify", content=chunks(), headers=NDJSON)
    codes = [line.get("error", {}).get("code", "ok") for line in as_lines(response)]
    assert codes == ["ok", "body_too_large", "ok"]


class OneAtATime(FakeEngine):
    """Its items wait for each other, as those of a runtime do. `foresees`: what could not be ready in time is refused."""

    def __init__(self, item_s: float, *, foresees: bool) -> None:
        super().__init__()
        self.item_s = item_s
        self.foresees = foresees
        self.asked = 0
        self._runtime = asyncio.Lock()

    async def _work(self, timeout_s: float | None) -> None:
        assert timeout_s is not None
        self.asked += 1
        if self.foresees and (self.running + 1) * self.item_s > timeout_s:
            raise OverloadedError("The queue is longer than the request's time; try again later.")
        self.running += 1
        try:
            async with asyncio.timeout(timeout_s), self._runtime:
                await asyncio.sleep(self.item_s)
        except TimeoutError:
            raise DeadlineExceededError("The request's time ran out before its answer was ready.") from None
        finally:
            self.running -= 1


async def ask_in_time(engine: FakeEngine, lines: int, timeout_ms: int) -> list[str]:
    """Each line's status, or the code of what it failed with."""
    headers = NDJSON | {"X-Request-Timeout-Ms": str(timeout_ms)}
    async with open_client(create_app(Settings(), engine=engine)) as client:
        response = await client.post("/v1/classify", content=ndjson(*[{"text": "red"}] * lines), headers=headers)
    return [line.get("error", {}).get("code", "ok") for line in as_lines(response)]


async def test_a_line_refused_for_its_siblings_sake_goes_on_when_one_of_them_is_answered() -> None:
    engine = OneAtATime(0.004, foresees=True)
    began_s = time.monotonic()
    assert await ask_in_time(engine, 100, 40) == ["ok"] * 100
    assert time.monotonic() - began_s < 1.5  # 0.4 s of work
    assert engine.asked < 350


async def test_a_lines_deadline_is_not_used_up_by_its_siblings() -> None:
    engine = OneAtATime(0.004, foresees=False)
    began_s = time.monotonic()
    assert await ask_in_time(engine, 100, 100) == ["ok"] * 100
    assert time.monotonic() - began_s < 3


async def test_a_line_that_takes_longer_than_its_deadline_fails_however_few_there_are() -> None:
    engine = OneAtATime(1, foresees=False)
    assert await ask_in_time(engine, 1, 20) == ["deadline_exceeded"]
    assert engine.asked == 1
    assert await ask_in_time(engine, 20, 20) == ["deadline_exceeded"] * 20
    assert engine.asked <= 1 + 20 * 4


async def test_a_deadline_too_short_for_any_line_is_said_at_once(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def refuse(timeout_s: float | None) -> None:
        nonlocal asked
        asked += 1
        raise DeadlineExceededError("These items need at least 3 ms; allow more time.")

    monkeypatch.setattr(engine, "_work", refuse)
    assert await ask_in_time(engine, 100, 1000) == ["deadline_exceeded"] * 100
    assert asked == 100


async def test_lines_that_nobody_takes_on_fail_together_after_the_stalls_time(engine: FakeEngine) -> None:
    engine.overloads_left = 10_000
    app = create_app(Settings(stall_timeout_s=0.1), engine=engine)
    began_s = time.monotonic()
    async with open_client(app) as client:
        response = await client.post("/v1/classify", content=ndjson(*[{"text": "red"}] * 40), headers=NDJSON)
    assert [line["error"]["code"] for line in as_lines(response)] == ["overloaded"] * 40
    assert time.monotonic() - began_s < 1


class Connection:
    """An ASGI client under the test's control: it decides when bytes arrive and when it reads."""

    def __init__(self, path: str = "/v1/classify") -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.body = b""
        self.status: int | None = None
        self.received = 0
        self.ended: list[str] = []
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"top_k=1",
            "headers": [(b"content-type", b"application/x-ndjson")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {
                "itemlens.connection": {
                    "abort": lambda: self.ended.append("abort"),
                    "close": lambda: self.ended.append("close"),
                    "is_lost": False,
                    "on_lost": None,
                }
            },
        }

    def send_body(self, body: bytes, *, more: bool = True) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        """As the service's own protocol says it, at once and when it is asked; under another server it has to be asked."""
        if "extensions" in self.scope:
            connection = self.scope["extensions"]["itemlens.connection"]
            connection["is_lost"] = True
            if connection["on_lost"] is not None:
                connection["on_lost"]()
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        message = await self.incoming.get()
        self.received += 1
        return message

    async def send(self, message: Message) -> None:
        await self.may_read.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


async def test_results_come_while_the_body_is_still_being_sent(engine: FakeEngine) -> None:
    connection = Connection()
    app = create_app(Settings(), engine=engine)
    task = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
    connection.send_body(ndjson({"text": "red"}))
    async with asyncio.timeout(5):
        while b"\n" not in connection.body:
            await asyncio.sleep(0.001)
    assert not task.done()
    connection.send_body(ndjson({"text": "blue"}), more=False)
    async with asyncio.timeout(5):
        await task
    assert connection.body.count(b"\n") == 2


async def test_a_client_that_does_not_read_stops_the_reading_and_is_cut(engine: FakeEngine) -> None:
    connection = Connection()
    connection.may_read.clear()
    app = create_app(Settings(bulk_window_items=4, stall_timeout_s=0.2), engine=engine)
    for _ in range(100):
        connection.send_body(ndjson({"text": "red"}))
    async with asyncio.timeout(5):
        await app(connection.scope, connection.receive, connection.send)
    assert connection.received <= 6
    assert engine.started <= 6
    assert connection.ended == ["abort"]


async def test_a_client_that_stops_sending_gets_its_results_and_is_closed(engine: FakeEngine) -> None:
    connection = Connection()
    app = create_app(Settings(stall_timeout_s=0.1), engine=engine)
    connection.send_body(ndjson({"text": "red"}) + b'{"te')
    async with asyncio.timeout(5):
        await app(connection.scope, connection.receive, connection.send)
    first, last = connection.body.splitlines()
    assert json.loads(first)["status"] == "ok"
    assert json.loads(last)["error"]["code"] == "body_stalled"
    assert connection.ended == ["close"]


@pytest.mark.parametrize("lines", [3, 10])
async def test_work_of_a_client_that_left_is_dropped(engine: FakeEngine, lines: int) -> None:
    engine.delay_s = 60
    connection = Connection()
    app = create_app(Settings(bulk_window_items=4), engine=engine)
    connection.send_body(ndjson(*[{"text": "red"}] * lines), more=False)
    task = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
    in_work = min(lines, 4)  # one is waited for, two stand behind it, and one waits to be put there
    async with asyncio.timeout(5):
        while engine.running < in_work:
            await asyncio.sleep(0.001)
        connection.hang_up()
        await task
        while engine.running:
            await asyncio.sleep(0.001)
    assert engine.cancelled == in_work
    assert connection.status is None


async def test_under_another_server_the_reader_notices_that_the_client_left(engine: FakeEngine) -> None:
    engine.delay_s = 60
    connection = Connection()
    del connection.scope["extensions"]
    app = create_app(Settings(), engine=engine)
    connection.send_body(ndjson({"text": "red"}), more=False)
    task = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
    async with asyncio.timeout(5):
        while not engine.running:
            await asyncio.sleep(0.001)
        connection.hang_up()
        await task
    assert connection.status is None


async def test_a_client_that_left_with_lines_unread_starts_no_more_of_them(engine: FakeEngine) -> None:
    """Its lines came all at once, so nothing more is received, where the end of the connection would be seen."""
    engine.delay_s = 0.01
    connection = Connection()
    app = create_app(Settings(bulk_window_items=4), engine=engine)
    connection.send_body(ndjson(*[{"text": "red"}] * 1000), more=False)
    task = asyncio.create_task(app(connection.scope, connection.receive, connection.send))
    async with asyncio.timeout(5):
        while connection.body.count(b"\n") < 3:
            await asyncio.sleep(0.001)
        connection.hang_up()
        started = engine.started
        await task
        while engine.running:
            await asyncio.sleep(0.001)
    assert engine.started <= started + 4  # those that stood in the window
    assert connection.scope["extensions"]["itemlens.connection"]["on_lost"] is None


async def test_a_client_that_left_before_its_stream_began_has_nothing_started(engine: FakeEngine) -> None:
    connection = Connection()
    connection.send_body(ndjson(*[{"text": "red"}] * 3), more=False)
    connection.hang_up()
    async with asyncio.timeout(5):
        await create_app(Settings(), engine=engine)(connection.scope, connection.receive, connection.send)
    assert (engine.started, connection.status) == (0, None)


async def test_photos_stream(client: httpx.AsyncClient) -> None:
    items = [{"image": in_base64(draw_photo(colour))} for colour in ("red", "blue", "white")]
    response = await client.post("/v1/classify", content=ndjson(*items), headers=NDJSON)
    assert [line["attributes"]["baseColour"]["label"] for line in as_lines(response)] == ["Red", "Blue", "White"]
