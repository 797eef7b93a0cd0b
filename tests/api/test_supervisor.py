"""Workers that hang, never start or never stop. The workers here serve nothing, so that nothing but the supervisor is tried."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import os, signal, socket, sys, time
from pathlib import Path
from app.logging import configure_logging
from app.supervisor import Supervisor

folder = Path(sys.argv[1])
configure_logging("info", "json")


def end_newborn():
    if (folder / "end-newborn").exists():
        (folder / "end-newborn").unlink()
        os.kill(os.getpid(), signal.SIGTERM)


os.register_at_fork(after_in_child=end_newborn)
fork = os.fork


def fork_if_there_is_room():
    if (folder / "no-room").exists():
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()


os.fork = fork_if_there_is_room


def work(listener, parent):
    while (folder / "never-ready").exists():
        time.sleep(0.05)
    if (folder / "deaf").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent.ready("m/1")
    while True:
        parent.beat()
        time.sleep(0.1)


listeners = [socket.socket() for _ in range(2)]
class Nothing:
    # In place of the switch of model generations and of what is counted, which these workers have none of.
    def __getattr__(self, name):
        return lambda *_, **__: None

supervisor = Supervisor(
    listeners, work, switch=Nothing(), counts=Nothing(), grace_s=0, start_timeout_s=1.5, silence_timeout_s=1.5,
    on_ready=lambda _: print('{"event": "ready"}', flush=True),
)
if (folder / "foreign").exists():
    os.posix_spawnp("true", ["true"], os.environ)
sys.exit(supervisor.run())
"""


class Supervised:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_for(self, name: str) -> dict[str, Any]:
        """The next event of this name; those before it are passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == name:
                return event
        raise AssertionError(f"it ended without {name}")

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def supervised(folder: Path) -> Iterator[Supervised]:
    running = Supervised(folder)
    try:
        yield running
    finally:
        # The lifeline ends with the parent, but these workers do not listen to it.
        left = running.workers() if running.process.poll() is None else []
        running.process.kill()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        running.process.communicate()


def test_a_silent_worker_is_killed_and_replaced(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.wait_for("ready")
        victim = running.workers()[0]
        os.kill(victim, signal.SIGSTOP)
        assert running.wait_for("worker_killed")["pid"] == victim
        died = running.wait_for("worker_died")
        assert (died["pid"], died["reason"]) == (victim, "its event loop was silent for 1.5 s")
        assert died["restart_in_s"] == 0
        while len(running.workers()) < 2:
            time.sleep(0.01)
        running.process.terminate()
        assert running.process.wait(10) == 0


def test_a_replacement_that_never_becomes_ready_does_not_hold_up_the_next_roll(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.wait_for("ready")
        before = set(running.workers())
        (tmp_path / "never-ready").touch()
        running.process.send_signal(signal.SIGHUP)
        failed = running.wait_for("worker_not_replaced")
        assert failed["reason"] == "it was not ready within 1.5 s"
        assert set(running.workers()) == before
        (tmp_path / "never-ready").unlink()
        running.process.send_signal(signal.SIGHUP)
        assert {running.wait_for("worker_replaced")["slot"] for _ in range(2)} == {0, 1}


def test_the_end_of_a_child_that_is_no_worker_is_nothing_to_the_service(tmp_path: Path) -> None:
    """The first process of a container is given every process there whose own parent has ended."""
    (tmp_path / "foreign").touch()
    with supervised(tmp_path) as running:
        running.wait_for("ready")
        while len(running.workers()) > 2:
            time.sleep(0.01)  # until the other child has been reaped
        running.process.terminate()
        assert running.process.wait(10) == 0


def test_where_no_process_can_be_had_the_others_serve_on_and_one_is_tried_for_again(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.wait_for("ready")
        (tmp_path / "no-room").touch()
        first, second = running.workers()
        os.kill(running.process.pid, signal.SIGHUP)
        assert running.wait_for("worker_not_replaced")["reason"] == "Resource temporarily unavailable"
        os.kill(first, signal.SIGKILL)
        assert running.wait_for("worker_died")["restart_in_s"] == 0
        assert running.wait_for("worker_not_started")["reason"] == "Resource temporarily unavailable"
        assert running.workers() == [second]
        (tmp_path / "no-room").unlink()
        while len(running.workers()) < 2:
            time.sleep(0.01)


def test_a_signal_to_a_worker_that_was_just_forked_is_none_to_its_parent(tmp_path: Path) -> None:
    with supervised(tmp_path) as running:
        running.wait_for("ready")
        victim = running.workers()[0]
        (tmp_path / "end-newborn").touch()
        os.kill(victim, signal.SIGKILL)
        assert running.wait_for("worker_died")["pid"] == victim
        newborn = running.wait_for("worker_died")
        assert (newborn["slot"], newborn["exit_code"]) == (0, -signal.SIGTERM)
        while len(running.workers()) < 2:
            time.sleep(0.01)
        assert running.process.poll() is None


@pytest.mark.slow
def test_workers_that_are_not_ready_in_time_end_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "never-ready").touch()
    with supervised(tmp_path) as running:
        assert running.process.wait(30) == 1
        assert running.process.stderr is not None
        said = running.process.stderr.read()
    assert said == "A worker process was killed before the service could start: it was not ready within 1.5 s.\n"


@pytest.mark.slow
def test_a_replaced_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    (tmp_path / "deaf").touch()
    with supervised(tmp_path) as running:
        running.wait_for("ready")
        before = set(running.workers())
        (tmp_path / "deaf").unlink()
        running.process.send_signal(signal.SIGHUP)
        killed = {running.wait_for("worker_killed")["pid"] for _ in range(2)}
        assert killed == before


@pytest.mark.slow
def test_nobody_is_blamed_for_a_pause_of_all_processes(tmp_path: Path) -> None:
    """A paused container; the time goes on meanwhile."""
    with supervised(tmp_path) as running:
        running.wait_for("ready")
        pids = running.workers()
        for pid in (running.process.pid, *pids):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(4)
        # The parent first: it looks before its workers have spoken.
        for pid in (running.process.pid, *pids):
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.3)
        time.sleep(2)
        assert running.workers() == pids
