"""What every request gets: ids, timings, headers, problem documents, limits, deadlines, metrics, one log event."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app import metrics
from app.engine.errors import BundleError
from app.errors import PROBLEMS
from app.main import create_app
from app.settings import Settings
from tests.conftest import FakeEngine, open_client

pytestmark = pytest.mark.anyio

ONE = {"items": [{"text": "red"}]}
PATHS = ["/v1/models", "/health/live", "/metrics", "/docs", "/nothing/here", "/v1/classify"]
READABLE = [
    "/v1/models", "/v1/models/fashion", "/health/live", "/health/ready", "/metrics", "/docs", "/docs/errors",
    "/docs/static/docs.js", "/openapi.json",
]  # fmt: skip


def is_problem(response: httpx.Response, status: int, code: str) -> bool:
    body = response.json()
    return (
        response.status_code == body["status"] == status
        and body["code"] == code
        and response.headers["content-type"] == "application/problem+json"
        and body["request_id"] == response.headers["x-request-id"]
        and body["type"] == f"/docs/errors#{code}"
        and body["title"] == PROBLEMS[code].title
        and bool(body["detail"])
    )


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_has_an_id_timings_and_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    assert re.fullmatch(r"decode;dur=[\d.]+, queue;dur=[\d.]+, model;dur=[\d.]+, total;dur=[\d.]+", headers["server-timing"])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    assert "strict-transport-security" not in headers


async def test_transport_security_is_promised_over_tls_alone(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://itemlens") as client:
        assert "max-age" in (await client.get("/health/live")).headers["strict-transport-security"]


async def test_timings_are_the_engines(client: httpx.AsyncClient) -> None:
    headers = (await client.post("/v1/classify", json=ONE)).headers
    assert headers["server-timing"].startswith("decode;dur=1.5, queue;dur=0.5, model;dur=2.0, total;dur=")


@pytest.mark.parametrize("request_id", ["a", "order-7:retry_2.x", "A" * 128])
async def test_a_clients_request_id_comes_back(client: httpx.AsyncClient, request_id: str) -> None:
    response = await client.get("/nothing", headers={"X-Request-ID": request_id})
    assert response.headers["x-request-id"] == response.json()["request_id"] == request_id


@pytest.mark.parametrize("request_id", ["", "A" * 129, "with space", "<script>", "a\tb", "é", 'a"b'])
async def test_an_unsafe_request_id_is_replaced(client: httpx.AsyncClient, request_id: str) -> None:
    response = await client.get("/nothing", headers=[(b"X-Request-ID", request_id.encode())])
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_unknown_paths_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    assert is_problem(await client.get("/nothing/here"), 404, "not_found")
    assert is_problem(await client.post("/v1/classify/", json=ONE), 404, "not_found")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        response = await client.request(method, "/v1/classify")
        assert is_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"
    for path in READABLE:
        assert (await client.request("PUT", path)).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", READABLE)
async def test_what_can_be_read_can_be_asked_about(client: httpx.AsyncClient, path: str) -> None:
    """RFC 9110, section 9.1: HEAD is answered as GET is."""
    whole, head = await client.get(path), await client.head(path)
    assert head.status_code == whole.status_code == 200
    assert head.headers["content-type"] == whole.headers["content-type"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "junk"])
async def test_other_content_types_are_415_and_say_what_to_send(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await client.post("/v1/classify", content=json.dumps(ONE).encode(), headers=headers)
    assert is_problem(response, 415, "unsupported_media_type")
    assert "Content-Type: application/json" in response.json()["detail"]


async def test_the_content_types_parameters_do_not_matter(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert (await client.post("/v1/classify", content=json.dumps(ONE), headers=headers)).status_code == 200


async def test_a_body_over_the_limit_is_413_by_length_and_by_count(engine: FakeEngine) -> None:
    received = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal received
        for _ in range(100):
            received += 1
            yield b"x" * 500

    async with open_client(create_app(Settings(max_body_bytes=1024), engine=engine)) as client:
        json_type = {"content-type": "application/json"}
        assert is_problem(await client.post("/v1/classify", content=b"x" * 1025, headers=json_type), 413, "body_too_large")
        assert is_problem(await client.post("/v1/classify", content=chunks(), headers=json_type), 413, "body_too_large")
        assert received <= 4
        huge = {**json_type, "content-length": "9" * 5000}
        assert is_problem(await client.post("/v1/classify", content=b"{}", headers=huge), 413, "body_too_large")
        fits = json.dumps(ONE).encode().ljust(1024)
        assert (await client.post("/v1/classify", content=fits, headers=json_type)).status_code == 200


@pytest.mark.parametrize("timeout", ["", "0", "-1", "1.5", "1e3", "abc", "120001", "9" * 5000, "²"])
async def test_a_malformed_deadline_is_422(client: httpx.AsyncClient, timeout: str) -> None:
    response = await client.post("/v1/classify", json=ONE, headers=[(b"X-Request-Timeout-Ms", timeout.encode())])
    assert is_problem(response, 422, "invalid_header")


async def test_the_deadline_reaches_the_engine_less_the_time_spent(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await client.post("/v1/classify", json=ONE, headers={"X-Request-Timeout-Ms": "2000"})
    await client.post("/v1/embed", json=ONE)
    given, default = engine.deadlines_s
    assert given is not None
    assert default is not None
    assert 1 < given < 2
    assert 29 < default < 30


async def test_a_missed_deadline_is_504(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.delay_s = 5
    response = await client.post("/v1/classify", json=ONE, headers={"X-Request-Timeout-Ms": "50"})
    assert is_problem(response, 504, "deadline_exceeded")


async def test_not_ready_is_503_with_retry_after_and_live_stays_live(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.ready = False
    response = await client.get("/health/ready")
    assert is_problem(response, 503, "not_ready")
    assert int(response.headers["retry-after"]) >= 1
    assert is_problem(await client.post("/v1/classify", json=ONE), 503, "not_ready")
    assert (await client.get("/health/live")).json() == {"status": "ok"}


async def test_before_start_and_after_stop_nothing_but_liveness_answers(engine: FakeEngine) -> None:
    app = create_app(Settings(), engine=engine)
    async with open_client(app) as client:
        assert (await client.get("/health/ready")).json() == {"status": "ok"}
    assert engine.is_closed
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://itemlens") as late:
        assert is_problem(await late.get("/health/ready"), 503, "not_ready")
        assert (await late.get("/health/live")).status_code == 200


class BrokenEngine(FakeEngine):
    """Fails as no engine should, with the client's words in its message."""

    error: Exception = RuntimeError("cannot multiply CANARY-TITLE")

    async def classify(self, items: Any, **_: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("CANARY-TITLE"), BundleError("/srv/CANARY-TITLE is broken"), KeyError("CANARY-TITLE")]
)
async def test_an_unexpected_error_is_a_problem_without_its_words(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    engine = BrokenEngine()
    engine.error = error
    async with open_client(create_app(Settings(log_format="json"), engine=engine)) as client:
        response = await client.post("/v1/classify", json=ONE)
    assert is_problem(response, 500, "internal_error")
    out = capsys.readouterr().out
    assert "CANARY-TITLE" not in response.text + out
    events = [json.loads(line) for line in out.splitlines()]
    failure = next(event for event in events if event["event"] == "unhandled_error")
    assert failure["request_id"] == response.json()["request_id"]
    assert failure["exception"] == type(error).__name__
    assert any("test_edge.py" in frame for frame in failure["frames"])


async def test_a_client_that_hangs_up_has_its_work_cancelled(app: FastAPI, engine: FakeEngine) -> None:
    engine.delay_s = 60
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": json.dumps(ONE).encode(), "more_body": False})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/classify",
        "raw_path": b"/v1/classify",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    labels = ("POST", "/v1/classify", "499")
    before = metrics.REQUEST_COUNT.labels(*labels)._value.get()
    task = asyncio.create_task(app(scope, messages.get, send))
    async with asyncio.timeout(5):
        while not engine.running:
            await asyncio.sleep(0.001)
        messages.put_nowait({"type": "http.disconnect"})
        await task
    metrics.count_waiting()
    assert (engine.cancelled, engine.running, sent) == (1, 0, [])
    assert metrics.REQUEST_COUNT.labels(*labels)._value.get() == before + 1


async def test_one_log_event_per_request(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_client(create_app(Settings(log_format="json"), engine=engine)) as client:
        await client.post("/v1/classify", json={"items": [{"text": "red"}, {"text": "blue"}]}, headers={"X-Request-ID": "r-1"})
        await client.get("/v1/models/CANARY-NAME")
        await client.get("/health/live")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["request", "request"]
    first = events[0]
    assert (first["method"], first["route"], first["status"], first["items"], first["model"], first["request_id"]) == (
        "POST",
        "/v1/classify",
        200,
        2,
        "fashion",
        "r-1",
    )
    assert first["duration_ms"] > 0
    assert (events[1]["route"], events[1]["code"]) == ("/v1/models/{name}", "unknown_model")


async def test_requests_are_counted_by_template_never_by_path(client: httpx.AsyncClient) -> None:
    await client.get("/v1/models/fashion")
    await client.get("/CANARY-PATH")
    await client.request("CANARYVERB", "/v1/models")
    await client.post("/v1/classify", json=ONE)
    text = (await client.get("/metrics")).text
    assert 'itemlens_http_requests_total{method="GET",route="/v1/models/{name}",status="200"}' in text
    assert 'itemlens_http_requests_total{method="GET",route="unmatched",status="404"}' in text
    assert 'itemlens_http_requests_total{method="OTHER",route="unmatched",status="405"}' in text
    assert 'itemlens_http_request_duration_seconds_bucket{le="0.5",method="POST",route="/v1/classify",status="200"}' in text
    assert "itemlens_http_request_items_bucket" in text
    assert "CANARY" not in text


@pytest.mark.parametrize(("encoding", "status"), [("", 200), ("identity", 200), ("Identity", 200), ("gzip", 415)])
async def test_a_body_that_is_not_encoded_is_read_whatever_its_header(
    client: httpx.AsyncClient, encoding: str, status: int
) -> None:
    response = await client.post("/v1/classify", json=ONE, headers={"Content-Encoding": encoding})
    assert response.status_code == status
