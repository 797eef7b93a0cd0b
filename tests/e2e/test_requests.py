"""Requests over a socket: what every answer carries, many at once, clients that leave, and clients of other makers."""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.e2e.service import Service
from tests.tiny_bundle import TITLES, jpeg

Request = Mapping[str, Any]
"""Arguments of `httpx.Client.request`."""


@pytest.mark.parametrize("path", ["/health/ready", "/v1/models", "/docs", "/metrics", "/nothing"])
def test_every_answer_has_an_id_and_timings(service: Service, path: str) -> None:
    response = service.client.get(path)
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
    assert re.fullmatch(r"decode;dur=[\d.]+, queue;dur=[\d.]+, model;dur=[\d.]+, total;dur=[\d.]+", timings(response))
    assert "server" not in response.headers


def timings(response: httpx.Response) -> str:
    return str(response.headers["server-timing"])


def test_a_photos_timings_are_measured(service: Service) -> None:
    response = service.client.post("/v1/classify", files={"image": jpeg(1, height=800, width=600)})
    decode = re.match(r"decode;dur=([\d.]+)", timings(response))
    assert response.status_code == 200
    assert decode
    assert float(decode[1]) > 0


def mixed_requests(count: int) -> list[Request]:
    """JSON, forms and NDJSON; photos, titles and both; classify and embed; both models; one to four items; errors too."""
    requests: list[Request] = []
    for number in range(count):
        photo = jpeg(number, height=40 + number, width=30 + number)
        image, text = base64.b64encode(photo).decode(), f"{TITLES[number % 3]} {number}"
        both, title = {"id": f"sku-{number}", "image": image, "text": text}, {"id": f"title-{number}", "text": text}
        ndjson = {"content": f"{json.dumps(both)}\n{json.dumps(title)}\n", "headers": {"Content-Type": "application/x-ndjson"}}
        kinds: list[Request] = [
            {"url": "/v1/classify", "json": {"items": [both]}},
            {"url": "/v1/classify", "files": {"image": photo}, "data": {"text": text, "id": f"sku-{number}", "top_k": 1}},
            {"url": "/v1/embed", "json": {"items": [both, title], "encoding": "base64"}},
            {"url": "/v1/classify", "json": {"items": [both, {"id": "bad", "image": "bm90IGEgcGhvdG8="}, title, title]}},
            {"url": "/v1/embed", "json": {"items": [title], "modality": "text", "dimensions": 4}},
            {"url": "/v1/classify", "json": {"items": [both], "model": "tiny-photos"}},
            {"url": "/v1/classify", **ndjson},
            {"url": "/v1/classify", "json": {"items": [title], "model": "tiny-photos"}},
        ]
        requests.append(kinds[number % len(kinds)])
    return requests


def test_64_mixed_requests_at_once_get_the_answers_they_get_alone(service: Service) -> None:
    requests = mixed_requests(64)

    def answer(request: Request) -> tuple[int, Any]:
        response = service.client.post(**request)
        lines = [json.loads(line) for line in response.text.splitlines()]
        for line in lines:
            line.pop("request_id", None)
        return response.status_code, lines

    alone = [answer(request) for request in requests]
    with ThreadPoolExecutor(64) as threads:
        barrier = threading.Barrier(64)

        def answer_together(request: Request) -> tuple[int, Any]:
            barrier.wait(60)
            return answer(request)

        together = list(threads.map(answer_together, requests))
    assert together == alone
    # Every eighth asks a model of photos about a title.
    assert [status for status, _ in alone] == [200, 200, 200, 200, 200, 200, 200, 422] * 8
    # No two of the rest are alike: an answer that went to the wrong caller would have been seen.
    distinct = {json.dumps(lines) for status, lines in alone if status == 200}
    assert len(distinct) == 56


def test_clients_that_leave_do_not_disturb_the_others(service: Service) -> None:
    body = json.dumps({"items": [{"text": title} for title in TITLES]}).encode()
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\nContent-Type: application/json\r\n"
        "X-Request-ID: {}\r\nContent-Length: {}\r\n\r\n"
    )
    expected = service.post("/v1/classify", json.loads(body)).json()

    def leave(number: int) -> None:
        with closing(service.connect()) as connection:
            # Some go in the middle of the body, some right after it.
            sent = body[: len(body) // 2] if number % 2 else body
            connection.sendall(head.format(f"leaver-{number}", len(body)).encode() + sent)

    with ThreadPoolExecutor(16) as threads:
        leaving = [threads.submit(leave, number) for number in range(16)]
        staying = [threads.submit(service.post, "/v1/classify", json.loads(body)) for _ in range(16)]
        assert [job.result(60).json() for job in staying] == [expected] * 16
        for job in leaving:
            job.result(60)
    for number in range(16):
        # 499 in the log: its client had left. A whole request may have been answered before that was noticed.
        assert service.wait_for_request(f"leaver-{number}")["status"] in ((499,) if number % 2 else (200, 499))
    assert service.client.get("/health/ready").status_code == 200
    # Whatever worker answers: another's last counts come up to 0.2 s late.
    deadline_s = time.monotonic() + 10
    while "itemlens_http_requests_in_progress 1.0" not in service.client.get("/metrics").text:
        assert time.monotonic() < deadline_s, service.client.get("/metrics").text
        time.sleep(0.05)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_wish_for_another_protocol_is_passed_over(service: Service, framing: str) -> None:
    """Java's HTTP client asks for `h2c` with its first request, body included."""
    body = json.dumps({"items": [{"text": TITLES[0]}]}).encode()
    head = (
        b"POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Type: application/json\r\n"
    )
    if framing == "length":
        sent = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    else:
        sent = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    expected = service.post("/v1/classify", json.loads(body)).json()
    before = len(service.lines)
    with closing(service.connect()) as connection:
        # Twice on one connection, the second time byte by byte across the end of the head.
        for pieces in ([sent], [sent[:-100], *(sent[at : at + 1] for at in range(len(sent) - 100, len(sent)))]):
            for piece in pieces:
                connection.sendall(piece)
            received = b""
            while not received.endswith(b"]}") and (chunk := connection.recv(65536)):
                received += chunk
            assert received.startswith(b"HTTP/1.1 200"), received
            assert json.loads(received.split(b"\r\n\r\n", 1)[1]) == expected
    assert not [line for line in service.lines[before:] if "pgrade" in line]


def test_many_pipelined_wishes_are_all_passed_over(service: Service) -> None:
    one = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    last = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = b""
    with closing(service.connect()) as connection:
        connection.sendall(one * 2000 + last)
        while chunk := connection.recv(65536):
            received += chunk
    assert received.count(b"HTTP/1.1 200 OK") == 2001


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_compressed_body_is_refused_by_name(service: Service, coding: str) -> None:
    body = gzip.compress(b'{"items": [{"text": "Puma Men Grey T-shirt"}]}')
    for content_type in ("application/json", "application/x-ndjson", "multipart/form-data; boundary=x"):
        headers = {"Content-Type": content_type, "Content-Encoding": coding}
        response = service.client.post("/v1/classify", content=body, headers=headers)
        assert response.status_code == 415
        problem = response.json()
        assert problem["code"] == "unsupported_media_type"
        assert "Content-Encoding" in problem["detail"]
        assert response.headers["accept-encoding"] == "identity"


def test_an_identity_body_is_read(service: Service) -> None:
    response = service.post("/v1/classify", {"items": [{"text": TITLES[0]}]}, **{"Content-Encoding": "identity"})
    assert response.status_code == 200
