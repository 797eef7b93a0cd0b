"""The load generator: one thread, raw sockets, requests that were made beforehand.

Owns closed-loop load (so many requests under way at all times) and open-loop load (requests fall due at random moments,
whatever the server does). Refuses to know who is asked. Every status is checked.
"""

from __future__ import annotations

import random
import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scripts.benchmark.connection import Answer, Connection, ConnectionLostError
from scripts.benchmark.samples import Request

_DRAIN_S = 30.0
"""How long answers may still take once the time is over."""
OPEN_LOOP_CONNECTIONS = 256
"""So many that the kernel spreads them nearly evenly over a server's sockets, and few enough for select()."""


@dataclass(slots=True)
class Load:
    """What came of it. Latencies are of good answers, in milliseconds; open-loop ones count from the intended moment."""

    seconds: float = 0.0
    items: int = 0
    requests: int = 0
    failures: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    """CPU seconds of the generator itself (system time included)."""

    @property
    def items_per_s(self) -> float:
        return self.items / self.seconds if self.seconds else 0.0

    def count(self, connection: Connection, answer: Answer | None, now_s: float) -> None:
        self.requests += 1
        failed = answer is None or answer.status != 200
        if answer is not None and connection.mark is not None and connection.mark in answer.body:
            failed = True
        if failed:
            self.failures += 1
            return
        self.items += connection.items
        self.latencies_ms.append((now_s - connection.sent_at_s) * 1000)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank). NaN without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(share * 10_000) // 10_000))
    return ordered[min(rank, len(ordered)) - 1]


def ask_once(port: int, wire: bytes, *, timeout_s: float = 60.0) -> Answer:
    """One request on a connection of its own. Raises OSError, ConnectionLostError, TimeoutError."""
    connection = Connection(port, timeout_s=timeout_s)
    give_up_s = time.perf_counter() + timeout_s
    try:
        connection.socket.settimeout(timeout_s)
        connection.send(wire)
        while time.perf_counter() < give_up_s:
            answer = connection.receive()
            if answer is not None:
                return answer
        raise TimeoutError("no answer in time")
    finally:
        connection.close()


def closed_loop(
    port: int,
    requests: Sequence[Request],
    *,
    concurrency: int,
    seconds: float,
    ramp_s: float = 0.5,
    at_start: Callable[[], None] = lambda: None,
    at_end: Callable[[], None] = lambda: None,
) -> Load:
    """`concurrency` requests under way for `ramp_s + seconds`; the last `seconds` count. `at_start` and `at_end` are
    called at their two ends, where CPU time is read. Raises OSError when the server cannot be reached at all."""
    selector = selectors.DefaultSelector()
    load = Load()
    turn = 0

    def send(connection: Connection) -> None:
        nonlocal turn
        request = requests[turn % len(requests)]
        turn += 1
        _begin(selector, connection, request, time.perf_counter())

    connections = [_open(selector, port) for _ in range(concurrency)]
    under_way = set(connections)
    started_s = time.perf_counter()
    for connection in connections:
        send(connection)
    counting_from_s = started_s + ramp_s
    counting = False
    cpu_s = 0.0
    while True:
        now_s = time.perf_counter()
        if not counting and now_s >= counting_from_s:
            counting, load = True, Load()
            at_start()
            cpu_s, counting_from_s = time.process_time(), time.perf_counter()
        elif counting and now_s >= counting_from_s + seconds:
            break
        for connection, answer in _answers(selector, 0.02):
            load.count(connection, answer, time.perf_counter())
            if answer is None:
                under_way.discard(connection)
                connection = _reopen(selector, connection, port)
                under_way.add(connection)
            send(connection)
    load.seconds = time.perf_counter() - counting_from_s
    load.cpu_s = time.process_time() - cpu_s
    at_end()
    _drain(selector, under_way)
    return load


def open_loop(
    port: int,
    requests: Sequence[Request],
    *,
    rate_per_s: float,
    seconds: float,
    seed: int = 1,
    connections: int = OPEN_LOOP_CONNECTIONS,
) -> Load:
    """Poisson arrivals at `rate_per_s`. A request that finds no free connection waits, and its waiting counts: there is no
    coordinated omission. Requests without an answer at the end are failures."""
    # select(), unlike epoll, wakes with microseconds' precision: epoll's whole milliseconds would be in every latency.
    selector = selectors.SelectSelector()
    generator = random.Random(seed)
    free = deque(_open(selector, port) for _ in range(connections))
    load = Load(seconds=seconds)
    due: deque[float] = deque()
    under_way: set[Connection] = set()
    cpu_s = time.process_time()
    started_s = time.perf_counter()
    ends_s = started_s + seconds
    next_s = started_s + generator.expovariate(rate_per_s)
    turn = 0
    while True:
        now_s = time.perf_counter()
        while next_s <= min(now_s, ends_s):
            due.append(next_s)
            next_s += generator.expovariate(rate_per_s)
        while due and free:
            connection = free.popleft()
            under_way.add(connection)
            _begin(selector, connection, requests[turn % len(requests)], due.popleft())
            turn += 1
        if next_s > ends_s and not due and not under_way:
            break
        if now_s > ends_s + _DRAIN_S:
            load.requests += len(due) + len(under_way)
            load.failures += len(due) + len(under_way)
            break
        pause_s = max(0.0, next_s - time.perf_counter()) if next_s <= ends_s else 0.02
        for connection, answer in _answers(selector, pause_s):
            load.count(connection, answer, time.perf_counter())
            under_way.discard(connection)
            free.append(connection if answer is not None else _reopen(selector, connection, port))
    load.cpu_s = time.process_time() - cpu_s
    for key in list(selector.get_map().values()):
        key.data.close()
    selector.close()
    return load


def _open(selector: selectors.BaseSelector, port: int) -> Connection:
    connection = Connection(port)
    selector.register(connection.socket, selectors.EVENT_READ, connection)
    return connection


def _reopen(selector: selectors.BaseSelector, connection: Connection, port: int) -> Connection:
    selector.unregister(connection.socket)
    connection.close()
    return _open(selector, port)


def _begin(selector: selectors.BaseSelector, connection: Connection, request: Request, at_s: float) -> None:
    connection.sent_at_s = at_s
    connection.items, connection.mark = request.items, request.failure_mark
    try:
        is_sent = connection.send(request.wire)
    except ConnectionLostError:
        return  # reading finds the same and counts it
    if not is_sent:
        selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)


def _answers(selector: selectors.BaseSelector, timeout_s: float) -> list[tuple[Connection, Answer | None]]:
    """Connections that have their answer, or None where the connection is lost."""
    found: list[tuple[Connection, Answer | None]] = []
    for key, events in selector.select(timeout_s):
        connection: Connection = key.data
        try:
            if events & selectors.EVENT_WRITE and connection.flush():
                selector.modify(connection.socket, selectors.EVENT_READ, connection)
            if events & selectors.EVENT_READ:
                answer = connection.receive()
                if answer is not None:
                    found.append((connection, answer))
        except ConnectionLostError:
            found.append((connection, None))
    return found


def _drain(selector: selectors.BaseSelector, under_way: set[Connection]) -> None:
    """Take the answers that are still to come, so that the server is idle for whoever is next."""
    give_up_s = time.perf_counter() + _DRAIN_S
    while under_way and time.perf_counter() < give_up_s:
        for connection, answer in _answers(selector, 0.1):
            under_way.discard(connection)
            if answer is None:
                selector.unregister(connection.socket)
                connection.close()
    for key in list(selector.get_map().values()):
        key.data.close()
    selector.close()
