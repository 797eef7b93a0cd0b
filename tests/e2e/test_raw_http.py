"""Bytes that are not quite HTTP: none is answered with a 5xx, none keeps a connection, and none is read in two ways."""

from __future__ import annotations

import json
import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.service import Service

BODY = b'{"items": [{"text": "Puma"}]}'
POST = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
WHOLE = POST + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED = b"GET /v1/models/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

REFUSED = {
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "http2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http2 version": b"GET /health/live HTTP/2.0\r\nHost: x\r\n\r\n",
    "http 0.9": b"GET /health/live\r\n\r\n",
    "no such version": b"GET /health/live HTTP/9.9\r\nHost: x\r\n\r\n",
    "unknown method": b"BREW /v1/classify HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes in path": b"GET /v1/models/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "zero in path": b"GET /health/\x00live HTTP/1.1\r\nHost: x\r\n\r\n",
    "space in path": b"GET /health/live /x HTTP/1.1\r\nHost: x\r\n\r\n",
    "zero in header": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-ID: a\x00b\r\n\r\n",
    "zero in name": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-\x00A: a\r\n\r\n",
    "folded header": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: a\r\n b\r\n\r\n",
    "folded first header": b"GET /health/live HTTP/1.1\r\n Host: x\r\n\r\n",
    "space before colon": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A : a\r\n\r\n",
    "no colon": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A\r\n\r\n",
    "bare line feeds": b"GET /health/live HTTP/1.1\nHost: x\n\n",
    "bare carriage return": b"GET /health/live HTTP/1.1\r\nHost: x\rX-A: a\r\n\r\n",
    "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health/live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "authority form": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "one length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "length list": POST + b"Content-Length: 5, 5\r\n\r\nabcde",
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked is not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "no such coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "coding before chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "coding that is none": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "empty coding": POST + b"Transfer-Encoding: , chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "chunked twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "host is none": b"GET /health/live HTTP/1.1\r\nHost: a b/<>\r\n\r\n",
    "two types": POST + b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
    "two encodings": POST + b"Content-Encoding: gzip\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "two deadlines": POST + b"X-Request-Timeout-Ms: 0\r\nx-request-timeout-ms: 5000\r\nContent-Length: 2\r\n\r\n{}",
    "two keys": POST + b"X-API-Key: a\r\nX-API-Key: b\r\nContent-Length: 2\r\n\r\n{}",
    "chunks in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "negative length": POST + b"Content-Length: -5\r\n\r\nabc",
    "length with a plus": POST + b"Content-Length: +5\r\n\r\nabcde",
    "length in hex": POST + b"Content-Length: 0x5\r\n\r\nabcde",
    "no length": POST + b"Content-Length: \r\n\r\n",
    "endless length": POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
    "no chunk size": CHUNKED + b"\r\n\r\nabc\r\n0\r\n\r\n",
    "chunk size is no hex": CHUNKED + b"\r\nZZ\r\nabc\r\n0\r\n\r\n",
    "chunk size in 0x": CHUNKED + b"\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "negative chunk": CHUNKED + b"\r\n-3\r\nabc\r\n0\r\n\r\n",
    "endless chunk": CHUNKED + b"\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"\r\n1\r\nabc\r\n0\r\n\r\n",
    "chunk ends in a line feed": CHUNKED + b"\r\n3\nabc\n0\n\n" + SMUGGLED,
}  # fmt: skip
ODD_BUT_CLEAR = {
    "absolute form": b"GET http://elsewhere/health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros before the length": POST + b"Content-Length: %030d\r\n\r\n%s" % (len(BODY), BODY),
    "host with a port": LIVE.replace(b"Host: x", b"Host: [::1]:8000"),
    "coding in capitals": POST + b"Transfer-Encoding: Chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "two headers of no weight": LIVE.replace(b"Host: x", b"Host: x\r\nAccept: a/b\r\nAccept: c/d"),
    "empty lines first": b"\r\n\r\n" + LIVE,
    "http 1.0": b"GET /health/live HTTP/1.0\r\n\r\n",
    "chunk extension": CHUNKED + b"\r\n%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    "trailer": CHUNKED + b"\r\n" + CHUNK + b"0\r\nX-A: b\r\n\r\n",
    "body of a GET": b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "pipelined": WHOLE + LIVE + WHOLE,
}
HALVES = {
    "half a line": b"POST /v1/cla",
    "half a head": POST,
    "half a body": WHOLE[:-5],
    "half a chunk": CHUNKED + b"\r\n" + CHUNK[:-8],
    "no last chunk": CHUNKED + b"\r\n" + CHUNK,
    "nothing": b"",
}
STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def exchange(service: Service, sent: bytes, *, leaves: bool = False) -> tuple[list[int], bytes]:
    """Send, and read until the service closes; the statuses and what came. `leaves`: hang up after sending."""
    received = b""
    with closing(service.connect(timeout_s=20)) as connection:
        try:
            connection.sendall(sent)
            if leaves:
                return [], b""
            # What is well-formed leaves the connection open; this says that no more is to come.
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
    return [int(status) for status in STATUS_LINE.findall(received)], received


@pytest.fixture(autouse=True)
def _still_well(service: Service) -> Iterator[None]:
    """After each test the same processes answer, and none has logged an error."""
    before, processes = len(service.lines), children(service)
    yield
    assert service.client.get("/health/ready").status_code == 200
    assert children(service) == processes
    assert [line for line in service.lines[before:] if json.loads(line)["level"] == "error"] == []


def children(service: Service) -> str:
    pid = service.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_http_is_refused_and_closed(service: Service, name: str) -> None:
    began_s = time.monotonic()
    statuses, received = exchange(service, REFUSED[name])
    # A request may have been answered before its body turned out to be none; what follows it is never read.
    assert statuses in ([400], [422]), (name, received)
    assert b"smuggled" not in received
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("name", ODD_BUT_CLEAR)
def test_what_is_odd_but_clear_is_answered(service: Service, name: str) -> None:
    statuses, received = exchange(service, ODD_BUT_CLEAR[name])
    assert set(statuses) == {200}, (name, received)
    assert len(statuses) == {"pipelined": 4, "http 1.0": 1}.get(name, 2)


@pytest.mark.parametrize("name", HALVES)
def test_a_client_that_hangs_up_half_way_leaves_nothing_behind(service: Service, name: str) -> None:
    for _ in range(20):
        exchange(service, HALVES[name], leaves=True)


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """Requests of the corpora with bytes changed, lost, doubled, swapped, cut short or put into each other."""
    chance = random.Random(seed)
    corpus = [*REFUSED.values(), *ODD_BUT_CLEAR.values(), WHOLE, LIVE, CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n"]
    spice = [b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"0\r\n\r\n", b"Content-Length: 3\r\n", b"\xff", b"Host: y\r\n"]
    spice += [
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"%00",
        b"-",
    ]
    for _ in range(count):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(6):
                case 0:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del data[at : at + chance.randint(1, 20)]
                case 2:
                    data[at:at] = data[at : at + chance.randint(1, 40)]
                case 3:
                    data[at:at] = chance.choice(spice)
                case 4:
                    del data[at:]
                case 5:
                    data[at:at] = chance.choice(corpus)
        yield bytes(data)


def fuzz(service: Service, count: int, seed: int) -> None:
    for sent in mutations(count, seed):
        with closing(service.connect(timeout_s=15)) as connection:
            began_s = time.monotonic()
            received = b""
            try:
                connection.sendall(sent)
                # Half of a request would wait for its rest; the end of the connection is what it gets.
                connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(65536):
                    received += chunk
            except TimeoutError:
                pytest.fail(f"not closed: {sent!r}")
            except OSError:
                pass  # it had closed before all was sent
        assert time.monotonic() - began_s < 10, sent
        statuses = [int(status) for status in STATUS_LINE.findall(received)]
        assert all(status < 500 for status in statuses), (sent, received)


def test_mutated_requests(service: Service) -> None:
    fuzz(service, 400, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_mutated_requests(service: Service, seed: int) -> None:
    fuzz(service, 4000, seed=100 + seed)
