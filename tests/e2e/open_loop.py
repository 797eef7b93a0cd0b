"""A load generator in a process of its own: requests fall due at random moments, whatever the service does.

Owns the measuring of one step, `python -m tests.e2e.open_loop '{…}'`, and of capacity. Prints one JSON object. Latencies count
from the moment at which a request fell due, so that nothing is hidden by a generator that waits. A core does not do as much in
every minute, so a step comes in slices with the capacity measured between them: each slice offers a share of what was just
measured, and is judged by what was measured before and after it.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from scripts.benchmark.connection import Answer, Connection, ConnectionLostError
from scripts.benchmark.load import closed_loop, percentile
from scripts.benchmark.processes import cpu_seconds
from scripts.benchmark.samples import Request, draw_samples, service_multipart
from tests.e2e.service import ROOT

_RETRY_AFTER = re.compile(rb"\r\nretry-after: [1-9]", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: close", re.IGNORECASE)
_MOST_CONNECTIONS = 1500
_DRAIN_S = 40.0
_CALM_S = 3.0
"""After a slice, until the service no longer takes what comes for more of the same."""


@dataclass
class Step:
    """What came of one step's slices. Latencies in milliseconds; `late_ms`: how long after their moments requests were sent, at
    the 99th percentile. `in_time`: answers that came before their slice was over, which is what goodput counts.
    `capacity_per_s`: the mean of what was measured around the slices. `cpu_s`: what the server used in the slices."""

    seconds: float = 0.0
    capacity_per_s: float = 0.0
    cpu_s: float = 0.0
    accepted: int = 0
    in_time: int = 0
    accepted_p50_ms: float = 0.0
    accepted_p99_ms: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    refused_p50_ms: float = 0.0
    refused_p99_ms: float = 0.0
    without_retry_after: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    late_ms: float = 0.0
    connections: int = 0

    @property
    def goodput_per_s(self) -> float:
        return self.in_time / self.seconds

    @property
    def refused_per_s(self) -> float:
        return sum(self.refused.values()) / self.seconds


def measure(core: int, **plan: Any) -> dict[str, Any]:
    """Run one plan in a process on `core`: {"port", "pid", "share", "clients", "slices", "seconds", "capacity_s"} is a step of
    so many slices, `seconds` together, at a share of the capacity that so many waiting clients find in `capacity_s`; {"port",
    "rate", "seconds"} a step of one slice at a rate; {"port", "seconds"} says with how many clients the capacity is
    greatest."""
    command = [sys.executable, "-m", "tests.e2e.open_loop", json.dumps({"core": core, **plan})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class _Generator:
    def __init__(self, port: int, requests: list[Request]) -> None:
        self._port, self._requests = port, requests
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._free: list[Connection] = []
        self._busy: set[Connection] = set()
        self._accepted_ms: list[float] = []
        self._refused_ms: list[float] = []
        self._late_ms: list[float] = []
        self._ends_s = 0.0
        self._step = Step()
        self._refused: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def run(self, rate_per_s: float, seconds: float, seed: int = 1) -> None:
        """One slice."""
        chance = random.Random(seed)
        began_s = time.perf_counter()
        ends_s = self._ends_s = began_s + seconds
        due_s = began_s + chance.expovariate(rate_per_s)
        turn = 0
        while due_s <= ends_s or self._busy:
            now_s = time.perf_counter()
            while due_s <= min(now_s, ends_s) and (connection := self._take_connection()) is not None:
                self._late_ms.append((time.perf_counter() - due_s) * 1000)
                self._begin(connection, self._requests[turn % len(self._requests)], due_s)
                turn += 1
                due_s += chance.expovariate(rate_per_s)
            if now_s > ends_s + _DRAIN_S:
                self._failed["unanswered"] += len(self._busy)
                break
            pause_s = due_s - time.perf_counter() if due_s <= ends_s else 0.02
            # epoll waits for whole milliseconds.
            for number, events in self._poll.poll(pause_s if pause_s > 0.002 else 0):
                self._attend(self._connections[number], events)
        self._step.seconds += seconds

    def finish(self) -> Step:
        """What came of all slices. Closes the connections."""
        self._step.accepted = len(self._accepted_ms)
        self._step.accepted_p50_ms, self._step.accepted_p99_ms = _percentiles(self._accepted_ms)
        self._step.refused_p50_ms, self._step.refused_p99_ms = _percentiles(self._refused_ms)
        self._step.late_ms = _percentiles(self._late_ms)[1]
        self._step.refused, self._step.failed = dict(self._refused), dict(self._failed)
        for left in self._connections.values():
            left.close()
        return self._step

    def _take_connection(self) -> Connection | None:
        if self._free:
            return self._free.pop()
        if len(self._connections) >= _MOST_CONNECTIONS:
            return None
        connection = Connection(self._port)
        self._connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket, select.EPOLLIN)
        self._step.connections = max(self._step.connections, len(self._connections))
        return connection

    def _begin(self, connection: Connection, request: Request, due_s: float) -> None:
        connection.sent_at_s = due_s
        self._busy.add(connection)
        try:
            if not connection.send(request.wire):
                self._poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        except ConnectionLostError:
            self._lose(connection)

    def _attend(self, connection: Connection, events: int) -> None:
        try:
            if events & select.EPOLLOUT and connection.flush():
                self._poll.modify(connection.socket, select.EPOLLIN)
                if connection not in self._busy:
                    self._free.append(connection)  # it was answered before
            if events & ~select.EPOLLOUT and (answer := connection.receive()) is not None:
                self._count(connection, answer)
        except ConnectionLostError:
            self._lose(connection)

    def _count(self, connection: Connection, answer: Answer) -> None:
        elapsed_ms = (time.perf_counter() - connection.sent_at_s) * 1000
        self._busy.discard(connection)
        if answer.status == 200:
            self._step.in_time += time.perf_counter() <= self._ends_s
            self._accepted_ms.append(elapsed_ms)
        elif answer.status in (429, 503):
            self._refused[str(answer.status)] += 1
            self._refused_ms.append(elapsed_ms)
            self._step.without_retry_after += _RETRY_AFTER.search(answer.head) is None
        else:
            self._failed[str(answer.status)] += 1
        if _CLOSES.search(answer.head):
            self._forget(connection)
        elif connection.is_sent:
            self._free.append(connection)

    def _lose(self, connection: Connection) -> None:
        if connection in self._busy:
            self._busy.discard(connection)
            self._failed["connection lost"] += 1
        elif connection in self._free:
            self._free.remove(connection)
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._poll.unregister(connection.socket)
        del self._connections[connection.socket.fileno()]
        connection.close()


def _percentiles(values: list[float]) -> tuple[float, float]:
    return (percentile(values, 0.5), percentile(values, 0.99)) if values else (0.0, 0.0)


def _sliced(port: int, requests: list[Request], plan: dict[str, Any]) -> Step:
    generator, measured, used_s = _Generator(port, requests), [], 0.0
    for number in range(plan["slices"] + 1):
        load = closed_loop(port, requests, concurrency=plan["clients"], seconds=plan["capacity_s"])
        assert not load.failures, "waiting clients must get their answers"
        measured.append(load.items_per_s)
        if number < plan["slices"]:
            before_s = cpu_seconds(plan["pid"])
            generator.run(plan["share"] * load.items_per_s, plan["seconds"] / plan["slices"], seed=number)
            used_s += cpu_seconds(plan["pid"]) - before_s
            time.sleep(_CALM_S)
    step = generator.finish()
    around = [(before + after) / 2 for before, after in pairwise(measured)]
    step.capacity_per_s, step.cpu_s = sum(around) / len(around), used_s
    return step


def _best_clients(port: int, requests: list[Request], seconds: float) -> dict[str, float]:
    """How many waiting clients get the most answers a second."""
    loads = {count: closed_loop(port, requests, concurrency=count, seconds=seconds) for count in (8, 16, 32, 64)}
    assert not any(load.failures for load in loads.values())
    return {"clients": max(loads, key=lambda count: loads[count].items_per_s)}


def main(plan: dict[str, Any]) -> dict[str, Any]:
    os.sched_setaffinity(0, {plan["core"]})
    requests = service_multipart(draw_samples(16))
    if "share" in plan:
        return asdict(_sliced(plan["port"], requests, plan))
    if "rate" in plan:
        generator = _Generator(plan["port"], requests)
        generator.run(plan["rate"], plan["seconds"])
        return asdict(generator.finish())
    return _best_clients(plan["port"], requests, plan["seconds"])


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))  # noqa: T201
