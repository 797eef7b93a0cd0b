"""A contender's process: started, waited for, stopped with all that it started.

Owns the process and its log file. Refuses to know what it serves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.benchmark.connection import ConnectionLostError
from scripts.benchmark.load import ask_once
from scripts.benchmark.processes import ProcessStat, process_tree, running_processes
from scripts.benchmark.samples import get

_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.005


class ServerError(Exception):
    """A contender did not start or ended; the message says where its log is."""


def end_as_interrupted() -> None:
    """From now on SIGTERM ends this command as Ctrl-C does, so that the servers it has started do not outlive it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Server:
    """Starts when made; `wait_until_ready` before the first request, `stop` at the end."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, port: int, log: Path, cwd: Path
    ) -> None:
        self.name, self.port, self._log = name, port, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started_s = time.perf_counter()
        with log.open("ab") as output:
            # A session of its own, by which its processes are found again.
            self.process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self, path: str, *, timeout_s: float) -> float:
        """Seconds from its start to the first 200 at `path`. Raises ServerError."""
        wire = get(path)
        while time.perf_counter() < self.started_s + timeout_s:
            if self.process.poll() is not None:
                raise ServerError(f"{self.name} ended with exit code {self.process.returncode}; see logs/{self._log.name}")
            with contextlib.suppress(OSError, ConnectionLostError):
                if ask_once(self.port, wire, timeout_s=5.0).status == 200:
                    return time.perf_counter() - self.started_s
            time.sleep(_POLL_S)
        raise ServerError(f"{self.name} was not ready within {timeout_s:g} s; see logs/{self._log.name}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for whoever of its processes is left after a grace time."""
        started = process_tree(self.pid)
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_S)
        give_up_s = time.perf_counter() + 3.0
        while (left := _still_there(started)) and time.perf_counter() < give_up_s:
            time.sleep(0.05)
        for stat in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stat.pid, signal.SIGKILL)
        self.process.wait()
        while _still_there(left) and time.perf_counter() < give_up_s + _STOP_TIMEOUT_S:
            time.sleep(0.05)


def free_port() -> int:
    """A TCP port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _still_there(started: Sequence[ProcessStat]) -> list[ProcessStat]:
    """Those of them that run. A number that another process has got meanwhile has another start time."""
    now = {(stat.pid, stat.started_ticks) for stat in running_processes().values()}
    return [stat for stat in started if (stat.pid, stat.started_ticks) in now]
