from __future__ import annotations

import json
import math
import select
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.benchmark.connection import Answer, Connection, ConnectionLostError, parse_answer
from scripts.benchmark.load import Load, ask_once, closed_loop, open_loop, percentile
from scripts.benchmark.samples import Request, get


class _Handler(BaseHTTPRequestHandler):
    """`/good` answers, `/slow` takes 50 ms, `/bad` is 503, `/failed` is a 200 with a failed item, `/chunked` is sent in
    chunks, `/gone` closes without an answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/gone":
            self.close_connection = True
            return
        if self.path == "/slow":
            time.sleep(0.05)
        body = b'{"status":"error"}' if self.path == "/failed" else b'{"status":"ok"}'
        self.send_response(503 if self.path == "/bad" else 200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"7\r\n" + body[:7] + b"\r\n8;x=y\r\n" + body[7:] + b"\r\n0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 300

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def _request(path: str, *, items: int = 1) -> Request:
    body = b"x" * 300_000  # more than a socket takes at once
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return Request(head + body, items, b'"status":"error"')


def test_a_closed_loop_counts_items_and_latencies_of_the_measured_time_alone(port: int) -> None:
    calls: list[float] = []
    load = closed_loop(
        port,
        [_request("/good", items=3)],
        concurrency=4,
        seconds=0.3,
        ramp_s=0.1,
        at_start=lambda: calls.append(time.perf_counter()),
        at_end=lambda: calls.append(time.perf_counter()),
    )
    assert load.failures == 0
    assert load.requests > 0
    assert load.items == 3 * load.requests == 3 * len(load.latencies_ms)
    assert load.seconds == pytest.approx(0.3, abs=0.2)
    assert calls[1] - calls[0] == pytest.approx(load.seconds, abs=0.1)
    assert load.cpu_s > 0


@pytest.mark.parametrize("path", ["/bad", "/failed", "/gone"])
def test_whatever_is_not_a_good_answer_is_a_failure(port: int, path: str) -> None:
    load = Load()
    while not load.requests:  # a machine that is busy may take longer than once
        load = closed_loop(port, [_request(path)], concurrency=2, seconds=0.2, ramp_s=0.0)
    assert load.failures == load.requests
    assert load.items == 0
    assert load.latencies_ms == []


def test_a_closed_loop_never_has_more_under_way_than_asked(port: int) -> None:
    load = closed_loop(port, [_request("/slow")], concurrency=2, seconds=0.5, ramp_s=0.0)
    assert load.requests <= 2 * (0.5 / 0.05 + 1)
    assert min(load.latencies_ms) >= 50


def test_an_open_loop_sends_at_the_rate_that_was_asked(port: int) -> None:
    load = open_loop(port, [_request("/good")], rate_per_s=100, seconds=1.0, connections=16)
    assert load.failures == 0
    assert 60 <= load.requests <= 145  # four standard deviations of a Poisson count


def test_an_open_loop_counts_the_wait_for_a_connection(port: int) -> None:
    # One connection of 50 ms a request can answer 20 a second; of 60 a second the last ones wait long.
    load = open_loop(port, [_request("/slow")], rate_per_s=60, seconds=0.5, connections=1)
    assert load.failures == 0
    assert max(load.latencies_ms) > 300


def test_one_answer_can_be_asked_for(port: int) -> None:
    for path in ("/good", "/chunked"):
        answer = ask_once(port, get(path))
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
    with pytest.raises(ConnectionLostError):
        ask_once(port, get("/gone"))


def test_an_answer_may_come_before_the_request_is_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, closing(Connection(listening.getsockname()[1])) as connection:
        accepted, _ = listening.accept()
        with accepted:
            assert not connection.send(b"x" * 64 * 1024 * 1024)
            accepted.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            select.select([connection.socket], [], [], 10.0)
            answer = connection.receive()
            assert answer is not None
            assert (answer.status, connection.is_sent) == (503, False)
            accepted.settimeout(10.0)
            while not connection.flush():
                accepted.recv(1024 * 1024)
            assert connection.is_sent


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        free = server.server_address[1]
    with pytest.raises(OSError, match="refused"):
        closed_loop(free, [_request("/good")], concurrency=1, seconds=0.1)


def test_an_answer_is_whole_only_at_its_end() -> None:
    whole = b"HTTP/1.1 200 OK\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nok"
    assert all(parse_answer(whole[:end]) is None for end in range(len(whole)))
    answer = parse_answer(whole)
    assert answer is not None
    assert answer == Answer(200, b"HTTP/1.1 200 OK\r\nRetry-After: 1\r\nContent-Length: 2", b"ok")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    blank = chunked.replace(b"ok", b"\r\n")
    assert all(parse_answer(whole[:end]) is None for whole in (chunked, blank) for end in range(len(whole)))
    for nonsense in (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", chunked.replace(b"2\r\nok", b"zz\r\nok")):
        with pytest.raises(ConnectionLostError):
            parse_answer(nonsense)


def test_percentiles_are_by_nearest_rank() -> None:
    values = list(range(100, 0, -1))
    assert [percentile(values, share) for share in (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)] == [1, 50, 90, 99, 100, 100]
    assert percentile([7.0], 0.99) == 7.0
    assert math.isnan(percentile([], 0.5))
