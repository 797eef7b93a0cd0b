"""The process as an operator meets it: start, readiness, refusal, stop."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from tests.api.certificates import make_certificate
from tests.e2e.conftest import API_KEY
from tests.e2e.service import ROOT, START_TIMEOUT_S, Service, clean_environment, free_port, own_lines, start_process
from tests.tiny_bundle import TITLES, jpeg, write_tiny_bundle

TITLE = {"items": [{"text": "Puma Men Grey T-shirt"}]}


def answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=30).status_code == 200
    except httpx.ConnectError:
        return False


def test_help_needs_no_model(tmp_path: Path) -> None:
    with start_process(tmp_path, {}, ["--help"]) as process:
        out, error = process.communicate(timeout=START_TIMEOUT_S)
    assert (process.returncode, error) == (0, "")
    assert all(f"ITEMLENS_{name.upper()} = " in out for name in Settings.model_fields)


def test_it_is_ready_from_its_first_answer_and_a_stop_lets_running_requests_finish(tiny_models: Path) -> None:
    """Three are on their way when SIGTERM comes: half a JSON body, half a bulk stream, and one idle connection."""
    body = json.dumps(TITLE).encode()
    line = json.dumps(TITLE["items"][0]).encode() + b"\n"
    head = "POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
    port = free_port()
    starting = Service(tiny_models, PORT=str(port))
    assert not answers(port, "/health/live"), "it answers before its models are loaded"
    with starting as service:
        assert answers(port, "/health/ready")
        with (
            closing(service.connect()) as single,
            closing(service.connect()) as bulk,
            closing(service.connect()) as idle,
        ):
            single.sendall(head.format("application/json", len(body)).encode() + body[:10])
            bulk.sendall(head.format("application/x-ndjson", 2 * len(line)).encode() + line)
            received = read_until(bulk, lambda data: b'"index":0' in data)
            idle.sendall(b"GET /health/ready HTTP/1.1\r\nHost: itemlens\r\n\r\n")
            assert read_until(idle, lambda data: data.endswith(b"}")).startswith(b"HTTP/1.1 200")

            service.ask_to_stop()
            # The server closes what is idle once it has begun to stop: that is the moment to go on.
            assert idle.recv(1) == b""
            assert not answers(port, "/health/ready")
            single.sendall(body[10:])
            bulk.sendall(line)
            answer = read_until(single, lambda data: False)
            received += read_until(bulk, lambda data: False)
        assert service.wait_until_stopped() == 0
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["results"][0]["status"] == "ok"
    assert received.startswith(b"HTTP/1.1 200")
    assert b'"index":1' in received
    assert received.endswith(b"0\r\n\r\n")
    assert service.events()[-1]["event"] == "stopped"
    assert not answers(port, "/health/live")


def read_until(connection: socket.socket, is_enough: Callable[[bytes], bool]) -> bytes:
    """What came until it was enough or the server closed."""
    received = b""
    while not is_enough(received) and (chunk := connection.recv(65536)):
        received += chunk
    return received


def break_hash(bundle: Path) -> None:
    (bundle / "labels.json").write_text("{}")


def lose_everything(bundle: Path) -> None:
    shutil.rmtree(bundle.parent)


@pytest.mark.parametrize(("damage", "said"), [(break_hash, "labels.json"), (lose_everything, "no model here")])
def test_a_broken_bundle_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(write_tiny_bundle(tmp_path))
    with start_process(tmp_path, {}) as process:
        out, error = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 1
    assert said in error
    assert error.count("\n") == 1
    assert "Traceback" not in out + error
    # The log says why, for whoever collects only that; nothing claims to listen.
    assert all(json.loads(line)["event"] == "model_version_refused" for line in out.splitlines())


def test_both_runtimes_give_the_same_labels(service: Service, guarded_service: Service) -> None:
    assert {event["runtime"] for event in service.events() if event["event"] == "model_version_ready"} == {"litert"}
    assert {event["runtime"] for event in guarded_service.events() if event["event"] == "model_version_ready"} == {"tensorflow"}
    photos = [base64.b64encode(jpeg(seed)).decode() for seed in range(8)]
    both = [{"image": photo, "text": title} for photo, title in zip(photos, TITLES * 3, strict=False)]
    titles = [{"text": title} for title in TITLES]
    for model, items in (("tiny", [*both, *titles]), ("tiny-photos", both)):
        replies = [
            each.post("/v1/classify", {"items": items, "model": model}, **{"X-API-Key": API_KEY})
            for each in (service, guarded_service)
        ]
        assert labels_of(replies[0]) == labels_of(replies[1])


def labels_of(response: httpx.Response) -> list[dict[str, tuple[str | None, str]]]:
    assert response.status_code == 200, response.text
    return [
        {name: (answer["label"], answer["decision"]) for name, answer in result["attributes"].items()}
        for result in response.json()["results"]
    ]


def test_a_request_that_arrives_while_it_stops_is_answered_on_its_open_connection(tiny_models: Path) -> None:
    body = json.dumps(TITLE).encode()
    head = (
        f"POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with Service(tiny_models, WORKERS="1") as service, closing(service.connect()) as fresh, closing(service.connect()) as kept:
        kept.sendall(head.encode() + body)
        assert b" 200 " in read_until(kept, lambda data: data.endswith(b"}"))
        service.ask_to_stop()
        while answers(service.port, "/health/live"):
            pass  # until it no longer accepts
        for connection in (fresh, kept):
            connection.sendall(head.encode() + body)
            answer = read_until(connection, lambda _: False)  # to the end: it closes after the answer
            assert b" 200 " in answer.split(b"\r\n", 1)[0]
            assert b"connection: close" in answer.lower()
        assert service.wait_until_stopped() == 0


def test_a_refusal_needs_no_body(guarded_service: Service) -> None:
    """The head alone is answered: the body is announced and never sent."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    for key in (b"", b"X-API-Key: wrong\r\n"):
        with closing(guarded_service.connect(timeout_s=5)) as connection:
            connection.sendall(head + key + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


TAKE_THE_PORT = """
import socket, sys
from app import __main__ as service

bind = service._bind

def bind_and_lose(settings, workers):
    global other
    listeners = bind(settings, workers)
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(listeners[0].getsockname())
    other.listen()
    return listeners

service._bind = bind_and_lose
sys.exit(service.main([]))
"""


def last_line_of_a_start(models: Path, workers: str, program: str, *arguments: str) -> str:
    """All that a start by `program` says when it fails, as it has to: in one line, without a traceback."""
    settings = {"ITEMLENS_MODELS_DIR": str(models), "ITEMLENS_PORT": "0", "ITEMLENS_WORKERS": workers}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=clean_environment(**settings),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 1
    assert "Error" not in ended.stdout
    [said] = own_lines(ended.stderr)
    return said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_another_program_takes_while_it_loads_ends_the_start_in_one_line(tiny_models: Path, workers: str) -> None:
    said = last_line_of_a_start(tiny_models, workers, TAKE_THE_PORT)
    assert said.startswith("Cannot listen on 127.0.0.1 port 0: address already in use. ")


ALLOW_FEW_THREADS = """
import sys, threading
from app import __main__ as service

start, allowed = threading.Thread.start, int(sys.argv[1])

def start_or_fail(thread):
    global allowed
    if allowed <= 0:
        threading.stack_size(1 << 47)  # more than there are addresses: the system refuses it
    allowed -= 1
    start(thread)

threading.Thread.start = start_or_fail
sys.exit(service.main([]))
"""


@pytest.mark.parametrize(("workers", "allowed"), [("1", 0), ("1", 1), ("1", 2), ("1", 3), ("2", 0), ("2", 1)])
def test_a_start_that_gets_too_few_threads_ends_in_one_line(tiny_models: Path, workers: str, allowed: int) -> None:
    """It takes one each to look for models and to load them, and one for every model."""
    said = last_line_of_a_start(tiny_models, workers, ALLOW_FEW_THREADS, str(allowed))
    assert said.startswith("Cannot start a thread: the system allows no more. Raise the limit on threads and processes ")


@pytest.mark.parametrize(("closed", "workers"), [(">&-", "1"), (">&-", "2"), ("<&- >&- 2>&-", "2")])
def test_a_service_without_standard_streams_ends_as_one_with_them(tmp_path: Path, closed: str, workers: str) -> None:
    ended = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m app {closed}'],
        cwd=ROOT,
        env=clean_environment(ITEMLENS_MODELS_DIR=str(tmp_path), ITEMLENS_PORT="0", ITEMLENS_WORKERS=workers),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    if closed == ">&-":
        assert "no model here" in ended.stderr
        assert ended.stderr.count("\n") == 1
    else:
        assert ended.stderr == ""


def ignores(pid: int, number: signal.Signals) -> bool:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigIgn"], 16) >> number - 1 & 1)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_while_it_starts_does_not_end_it(tiny_models: Path, workers: str) -> None:
    starting = Service(tiny_models, WORKERS=workers)
    while starting.process.poll() is None and not ignores(starting.process.pid, signal.SIGUSR1):
        pass  # until it has said what it does with signals, long before its models are loaded
    starting.process.send_signal(signal.SIGHUP)
    with starting as service:
        assert answers(service.port, "/health/ready")


def test_a_single_process_renews_its_certificate_on_sighup(tiny_models: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    files = {"TLS_CERTIFICATE_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    with Service(tiny_models, WORKERS="1", **files) as service:
        assert ssl.get_server_certificate(("127.0.0.1", service.port)) == certificate.read_text()
        make_certificate(tmp_path)
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(lambda event: event["event"] == "certificate_renewed")
        assert ssl.get_server_certificate(("127.0.0.1", service.port)) == certificate.read_text()
