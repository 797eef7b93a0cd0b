"""Several worker processes behind one address: start, watch, replace, stop.

Owns processes and signals. The parent holds every listening socket and serves nothing itself: connections that arrive while a
worker is being replaced wait in its socket's backlog instead of being refused. Refuses to know what a worker does with its
socket. POSIX only (fork, SO_REUSEPORT).

SIGTERM and SIGINT stop the workers in order; SIGHUP replaces them one by one, each old one only after the new one is ready;
SIGUSR1 has the models folder looked at; a worker that dies is replaced at once, and ever more slowly if it keeps dying. One
whose event loop is silent, that does not become ready or that does not stop is killed first.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from app.generation import GenerationSwitch
from app.metrics_memory import MetricsMemory
from app.worker_link import ParentLink, Worker
from app.worker_process import PARENT_SIGNALS, fork_worker

log = structlog.stdlib.get_logger("itemlens")

RunWorker = Callable[[socket.socket, ParentLink], int]
"""Serve on the socket until SIGTERM (before it SIGUSR2, where the whole service stops) or until the parent is gone; say so once
ready, and beat every second from then on. Returns the exit code; raises `WorkerFailed` when it cannot start."""

TICK_S = 1.0  # how often the parent looks at the time
STABLE_S = 10.0
"""A worker that lived this long after being ready died of something new: its replacement is not held back."""
MAX_BACKOFF_S = 15.0
KILL_AFTER_GRACE_S = 3.0


@dataclass
class _Slot:
    listener: socket.socket
    current: Worker | None = None
    failures: int = 0
    start_at_s: float | None = 0.0


@dataclass
class Supervisor:
    """`run` blocks until the service has stopped. One worker per listener. Must be used in a process with one thread.

    `grace_s`: how long a worker may take to stop before it is killed; `start_timeout_s`: to become ready; `silence_timeout_s`:
    how long it may then be silent. `on_ready` is called once, when all are ready, with what the last of them said; `on_tick`
    every second or so: what it renews, a new worker inherits. `switch` and `counts` are told of the workers' coming and going.
    """

    listeners: Sequence[socket.socket]
    run_worker: RunWorker
    grace_s: float
    switch: GenerationSwitch
    counts: MetricsMemory
    start_timeout_s: float
    silence_timeout_s: float
    on_ready: Callable[[str], None] = lambda _said: None
    on_tick: Callable[[], object] = lambda: None
    _workers: dict[int, Worker] = field(default_factory=dict)
    _rolling: list[int] = field(default_factory=list)
    _is_stopping: bool = False
    _announced: bool = False

    def run(self) -> int:
        """The exit code: 0 after an asked-for stop, 1 when no worker can serve (the reason is on standard error)."""
        self._slots = [_Slot(listener) for listener in self.listeners]
        self._lifeline, self._lifeline_end = os.pipe()
        self._selector = selectors.DefaultSelector()
        wake, wake_end = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_end, False)
        self._selector.register(wake, selectors.EVENT_READ)
        previous = {number: signal.signal(number, lambda *_: None) for number in PARENT_SIGNALS}
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        try:
            self.switch.open(self._selector)
            return self._loop(wake)
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in previous.items():
                signal.signal(number, handler)
            for worker in self._workers.values():
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)
                os.close(worker.reports)
            self._workers.clear()
            self._selector.close()
            for end in (wake, wake_end, self._lifeline, self._lifeline_end):
                os.close(end)

    def _loop(self, wake: int) -> int:
        looked_at_s = time.monotonic()
        while True:
            if not self._is_stopping:
                self.on_tick()
                self._start_what_is_due()
            elif not self._workers:
                return 0
            for key, _ in self._selector.select(self._pause_s()):
                if key.fd == wake:
                    for number in os.read(wake, 4096):
                        self._signalled(number)
                else:
                    key.data()
            failure = self._reap()
            if failure is not None:
                sys.stderr.write(failure + "\n")
                return 1
            now = time.monotonic()
            if now - looked_at_s > TICK_S + 1:
                self._forgive(now - looked_at_s)
            looked_at_s = now
            self._kill_what_is_overdue(now)

    def _pause_s(self) -> float:
        waits = [time.monotonic() + TICK_S]
        if not self._is_stopping:
            waits += [slot.start_at_s for slot in self._slots if slot.start_at_s is not None]
            if (turn_s := self.switch.tick()) is not None:
                waits.append(time.monotonic() + turn_s)
        return max(0.0, min(waits) - time.monotonic()) + 0.01

    # --- starting -----------------------------------------------------------------------------------------------

    def _start_what_is_due(self) -> None:
        for number, slot in enumerate(self._slots):
            if slot.start_at_s is not None and slot.start_at_s <= time.monotonic():
                slot.start_at_s = None
                try:
                    slot.current = self._fork(number)
                except OSError as error:  # the system has no process or descriptor left, for the moment
                    log.error("worker_not_started", slot=number, reason=error.strerror, restart_in_s=self._start_later(slot))

    def _fork(self, slot: int, replaces: Worker | None = None) -> Worker:
        reports, reports_end = os.pipe()
        parent = ParentLink(reports_end, self._lifeline)
        self.switch.before_fork()
        self.counts.before_fork()
        work = partial(self.run_worker, self.listeners[slot], parent)
        try:
            pid = fork_worker(parent, partial(self._let_go, slot, reports), work)
        except OSError:
            os.close(reports)
            raise
        finally:
            os.close(reports_end)
        worker = Worker(slot, pid, reports, replaces)
        self._workers[pid] = worker
        self._selector.register(reports, selectors.EVENT_READ, lambda: self._reported(worker))
        self.counts.joined(pid)
        self.switch.joined(pid)
        return worker

    def _let_go(self, slot: int, reports: int) -> None:
        """In the new process: close what is the parent's and other workers'."""
        self._selector.close()
        self.switch.in_worker()
        self.counts.in_worker()
        for end in (reports, self._lifeline_end, *(worker.reports for worker in self._workers.values())):
            os.close(end)
        for listener in set(self.listeners) - {self.listeners[slot]}:
            listener.close()

    # --- events -------------------------------------------------------------------------------------------------

    def _reported(self, worker: Worker) -> None:
        is_open, detail = worker.hear()
        if not is_open:
            self._selector.unregister(worker.reports)
        if detail is None:
            return
        if worker.replaces is not None:
            old, worker.replaces = worker.replaces, None
            slot = self._slots[worker.slot]
            if slot.current is not None:  # the old one, or what took its place when it died meanwhile
                self._stop(slot.current)
            slot.current, slot.start_at_s = worker, None
            log.info("worker_replaced", slot=worker.slot, pid=worker.pid, old_pid=old.pid)
            self._roll_on()
        if not self._announced and all(slot.current and slot.current.ready_at_s for slot in self._slots):
            self._announced = True
            self.on_ready(detail)

    def _signalled(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT) and not self._is_stopping:
            self._is_stopping = True
            for listener in self.listeners:
                listener.close()  # a connection that nobody will accept must be refused, not left to wait
            for worker in self._workers.values():
                os.kill(worker.pid, signal.SIGUSR2)  # the service stops, not this worker alone
                self._stop(worker)
        elif number == signal.SIGUSR1:
            self.switch.look_now()
        elif number == signal.SIGHUP and not self._is_stopping and self._announced and not self._rolling:
            log.info("rolling_restart", workers=len(self._slots))
            self._rolling = list(range(len(self._slots)))
            self._roll_on(first=True)

    def _roll_on(self, *, first: bool = False) -> None:
        if self._rolling and not first:
            self._rolling.pop(0)
        while self._rolling:
            current = self._slots[self._rolling[0]].current
            if current is not None and current.ready_at_s is not None:
                try:
                    self._fork(self._rolling[0], replaces=current)
                except OSError as error:
                    log.error("worker_not_replaced", slot=self._rolling[0], exit_code=None, reason=error.strerror)
                    self._rolling = []
                return
            self._rolling.pop(0)  # it has just been started anew anyway

    def _reap(self) -> str | None:
        """Take note of workers that have gone. Returns why the service cannot go on, if it cannot."""
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return None
            worker = self._workers.pop(pid, None)
            if worker is None:  # whatever loses its parent in a container becomes a child of the first process
                continue
            code = os.waitstatus_to_exitcode(status)
            if worker.reports in self._selector.get_map():
                self._selector.unregister(worker.reports)
            message = worker.last_words()
            self.counts.left(pid)
            self.switch.left(pid, was_stopped=worker.stop_by_s is not None and worker.end is None)
            if worker.stop_by_s is not None or self._is_stopping:
                continue
            if worker.replaces is not None:
                log.error("worker_not_replaced", slot=worker.slot, exit_code=code, reason=message or None)
                self._rolling = []
                continue
            if not self._announced:
                return self._why_not_started(worker, code, message)
            self._start_again(worker, code, message)
        return None

    def _why_not_started(self, worker: Worker, code: int, message: str) -> str:
        if worker.end is not None:
            return f"A worker process was killed before the service could start: {worker.end}."
        return message or f"A worker process ended with exit code {code} before it was ready; see the log above."

    def _start_again(self, worker: Worker, code: int, message: str) -> None:
        slot = self._slots[worker.slot]
        if slot.current is not worker:
            return
        now = time.monotonic()
        stable = worker.ready_at_s is not None and now - worker.ready_at_s > STABLE_S
        slot.failures = -1 if stable else slot.failures
        wait_s = self._start_later(slot)
        log.error("worker_died", slot=worker.slot, pid=worker.pid, exit_code=code, reason=message or None, restart_in_s=wait_s)

    def _start_later(self, slot: _Slot) -> float:
        """In how many seconds: the longer, the more starts in a row have failed."""
        slot.failures += 1
        wait_s = 0.0 if slot.failures <= 1 else min(MAX_BACKOFF_S, 0.5 * 2.0 ** (slot.failures - 2))
        slot.current, slot.start_at_s = None, time.monotonic() + wait_s
        return wait_s

    # --- stopping -----------------------------------------------------------------------------------------------

    def _stop(self, worker: Worker) -> None:
        worker.stop_by_s = time.monotonic() + self.grace_s + KILL_AFTER_GRACE_S
        os.kill(worker.pid, signal.SIGTERM)

    def _kill_what_is_overdue(self, now: float) -> None:
        for worker in self._workers.values():
            if worker.end is not None:
                continue
            if worker.stop_by_s is not None:
                if now >= worker.stop_by_s:
                    self._kill(worker, "it did not stop within the grace time")
            elif worker.ready_at_s is None:
                if now - worker.started_at_s > self.start_timeout_s:
                    self._kill(worker, f"it was not ready within {self.start_timeout_s:g} s")
            elif now - worker.heard_at_s > self.silence_timeout_s:
                self._kill(worker, f"its event loop was silent for {self.silence_timeout_s:g} s")

    def _kill(self, worker: Worker, why: str) -> None:
        worker.end = why
        log.error("worker_killed", slot=worker.slot, pid=worker.pid, reason=why)
        os.kill(worker.pid, signal.SIGKILL)

    def _forgive(self, lost_s: float) -> None:
        """The parent itself stood still, as all processes of a paused container do: nobody is to blame for that time."""
        for worker in self._workers.values():
            worker.started_at_s += lost_s
            worker.heard_at_s += lost_s
