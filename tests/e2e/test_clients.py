"""The clients of docs/clients, run as a reader would run them, against the running service with the shipped models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.e2e.service import ROOT, Service, clean_environment

CLIENTS = ROOT / "docs" / "clients"
PYTHON = [sys.executable, str(CLIENTS / "itemlens.py")]
JAVASCRIPT = ["node", str(CLIENTS / "itemlens.mjs")]
SHELL = ["bash", str(CLIENTS / "itemlens.sh")]
ALL = pytest.mark.parametrize("command", [PYTHON, JAVASCRIPT, SHELL], ids=["python", "javascript", "shell"])
KEY = "a-key-of-the-shop"


def run_client(command: list[str], url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    for program in (command[0], *(["curl"] if command is SHELL else [])):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    environment = clean_environment(ITEMLENS_URL=url, **variables)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", [PYTHON, JAVASCRIPT], ids=["python", "javascript"])
def test_a_client_gets_answers_and_sees_what_failed(shipped_service: Service, command: list[str]) -> None:
    done = run_client(command, shipped_service.url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("sku-1 articleType Tshirts ") for line in lines)
    assert any(line.startswith("sku-2 articleType ") for line in lines)
    assert "sku-3 failed: empty_item" in lines
    assert any(line.startswith("space fashion-") for line in lines)
    assert any(line.startswith("refused: 422 empty_item: ") for line in lines)


def test_the_shell_client_gets_answers_and_sees_what_failed(shipped_service: Service) -> None:
    done = run_client(SHELL, shipped_service.url)
    assert done.returncode == 0, done.stderr
    names, answers = [], []
    for part in done.stdout.split("== ")[1:]:
        name, answer = part.split("\n", 1)
        names.append(name)
        answers.append(json.loads(answer))
    assert names == ["classify", "batch", "embed", "refusal"]
    classified, batch, embedded, refusal = answers
    assert classified["results"][0]["attributes"]["articleType"]["label"] == "Tshirts"
    assert [result["status"] for result in batch["results"]] == ["ok", "error"]
    assert batch["results"][1]["error"]["code"] == "empty_item"
    assert len(embedded["results"][0]["embedding"]) == embedded["dimensions"] == 32
    assert refusal["code"] == "empty_item"


class _Busy(BaseHTTPRequestHandler):
    """Stands before the service; answers the first request as an overloaded service does, and passes on the others."""

    protocol_version = "HTTP/1.1"
    service_url: str
    seen: list[tuple[float, int, str | None]]

    def do_POST(self) -> None:
        body = self._read_body()
        if not self.seen:
            problem = {"status": 503, "code": "overloaded", "detail": "The queue is full."}
            headers = {"Content-Type": "application/problem+json", "Retry-After": "1"}
            answer = httpx.Response(503, headers=headers, json=problem)
        else:
            headers = {"Content-Type": self.headers["Content-Type"]}
            answer = httpx.post(self.service_url + self.path, content=body, headers=headers, timeout=60, trust_env=False)
        self.seen.append((time.monotonic(), answer.status_code, self.headers["X-API-Key"]))
        self.send_response(answer.status_code)
        for name in ("Content-Type", "Retry-After"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def _read_body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def log_message(self, *_: object) -> None:
        """The test looks at `seen`."""


@contextmanager
def busy_at_first(service: Service) -> Iterator[tuple[str, list[tuple[float, int, str | None]]]]:
    """The address of a service whose first answer is 503, and when it was asked, what it answered and with which key."""
    seen: list[tuple[float, int, str | None]] = []
    handler = type("Busy", (_Busy,), {"service_url": service.url, "seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


@ALL
def test_a_client_sends_its_key_and_comes_again_when_it_was_asked_to(shipped_service: Service, command: list[str]) -> None:
    with busy_at_first(shipped_service) as (url, seen):
        done = run_client(command, url, ITEMLENS_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert [status for _, status, _ in seen][:2] == [503, 200]
    # After the second that Retry-After asks for, by the clock of another process.
    assert seen[1][0] - seen[0][0] >= 0.9
    assert {key for _, _, key in seen} == {KEY}
    assert "empty_item" in done.stdout


@ALL
def test_a_client_without_the_key_says_what_is_missing(guarded_service: Service, command: list[str]) -> None:
    done = run_client(command, guarded_service.url)
    assert done.returncode != 0
    assert "unauthorized" in done.stdout + done.stderr
