"""One running `python -m app`: started on a free port, heard through its log, stopped by a signal.

Owns the process. Nothing here waits by sleeping: a log line or the end of the process is waited for.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

ROOT = Path(__file__).parent.parent.parent
START_TIMEOUT_S = 120.0
"""Generous: a laptop that trains meanwhile takes its time to load a runtime."""
STOP_TIMEOUT_S = 60.0

Event = dict[str, Any]


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without Itemlens' own settings, and `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ITEMLENS_")}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | variables


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def own_lines(error_output: str) -> list[str]:
    """Without what LiteRT says. It writes its line in two parts, and another process may write between them."""
    whole = error_output.replace("INFO: ", "")
    return [line for line in whole.splitlines() if line != "Created TensorFlow Lite XNNPACK delegate for CPU."]


class Process(subprocess.Popen[str]):
    """As a context it ends with its block: one that runs on where it should not fails a test, and does not hang it."""

    def __exit__(self, *error: Any) -> None:
        self.kill()
        super().__exit__(*error)


def is_running(pid: int) -> bool:
    """Whether a process has not ended. In a container the first process may be one that reaps nobody's children but its own."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_process(models_dir: Path, settings: dict[str, str], arguments: Sequence[str] = ()) -> Process:
    """`settings`: names without the prefix, such as `RUNTIME`."""
    variables = {"MODELS_DIR": str(models_dir), "PORT": "0", "LOG_FORMAT": "json", "RUNTIME": "litert"} | settings
    return Process(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=clean_environment(**{f"ITEMLENS_{name}": value for name, value in variables.items()}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


class Service:
    """A service that starts at once, listens within its `with` block, and is stopped at the block's end if it still runs."""

    def __init__(self, models_dir: Path, **settings: str) -> None:
        self.process = start_process(models_dir, settings)
        self.lines: list[str] = []
        self.error_lines: list[str] = []
        self._heard = threading.Condition()
        self._has_ended = False
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.url = ""
        self.port = 0

    def __enter__(self) -> Service:
        try:
            self.url = self.wait_for(lambda event: event["event"] == "listening", START_TIMEOUT_S)["url"]
        except BaseException:
            self.process.kill()
            self._end()
            raise
        self.port = urlsplit(self.url).port or 0
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.stop()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._heard:
                self.lines.append(line.rstrip("\n"))
                self._heard.notify_all()
        with self._heard:
            self._has_ended = True
            self._heard.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.error_lines.extend(line.rstrip("\n") for line in self.process.stderr)

    def events(self) -> list[Event]:
        """Every log line so far. Raises ValueError for one that is not JSON."""
        with self._heard:
            return [json.loads(line) for line in self.lines]

    def wait_for(self, matches: Callable[[Event], bool], timeout_s: float = 30.0) -> Event:
        """The first event of the log that matches, past or to come. Raises AssertionError with what was logged."""
        deadline_s = time.monotonic() + timeout_s
        looked_at = 0
        with self._heard:
            while True:
                for line in self.lines[looked_at:]:
                    event: Event = json.loads(line)
                    if matches(event):
                        return event
                looked_at = len(self.lines)
                remaining_s = deadline_s - time.monotonic()
                if self._has_ended or remaining_s <= 0:
                    said = "\n".join([*self.lines[-20:], *self.error_lines[-20:]])
                    raise AssertionError(f"no such event within {timeout_s:g} s; the service said:\n{said}")
                self._heard.wait(remaining_s)

    def wait_for_request(self, request_id: str) -> Event:
        """The log event of the request with this `X-Request-ID`."""
        return self.wait_for(lambda event: event.get("request_id") == request_id)

    def connect(self, timeout_s: float = 30.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def ask_to_stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait_until_stopped(self) -> int:
        """The exit code."""
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            self.process.kill()
            self._end()

    def stop(self) -> int:
        self.ask_to_stop()
        return self.wait_until_stopped()

    def _end(self) -> None:
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        if hasattr(self, "client"):
            self.client.close()
