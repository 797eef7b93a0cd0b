"""Clients that never pause, and an exact account of what became of every request.

Owns keep-alive clients and clients that open a connection for each request. A failure is anything but a 200: a refused or
reset connection, an answer cut short, any other status. What the clients learn from each other is the order of versions: a
request sent after somebody was answered by version 2 must not be answered by version 1.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType

BODY = json.dumps({"items": [{"text": "Puma Men Grey T-shirt"}]}).encode()
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Failure:
    """`connected_s` (when its connection was opened) and `ended_s` in seconds of `time.monotonic()`."""

    client: str
    what: str
    connected_s: float
    ended_s: float

    def lies_in(self, killed_s: tuple[float, float]) -> bool:
        """Whether its connection may have been in the hands of a worker that was killed and gone between these two times."""
        return self.connected_s <= killed_s[1] and killed_s[0] <= self.ended_s


@dataclass
class Load:
    """Runs within its `with` block; read it afterwards, or while it runs.

    `backwards`: answers by an older version than one seen before the request was sent; it means something only while
    versions rise.
    """

    port: int
    keep_alive_clients: int = 3
    connecting_clients: int = 2
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    backwards: int = 0
    newest: int = 0

    def __enter__(self) -> Load:
        self._done = threading.Event()
        self._lock = threading.Lock()
        kinds = [True] * self.keep_alive_clients + [False] * self.connecting_clients
        self._threads = [threading.Thread(target=self._ask, args=(kept,), daemon=True) for kept in kinds]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        return len(self.latencies_s)

    def p99_ms(self, since: int = 0) -> float:
        """Of the answers from the `since`-th on."""
        latencies = sorted(self.latencies_s[since:])
        return latencies[int(0.99 * (len(latencies) - 1))] * 1000 if latencies else 0.0

    def wait_for(self, more: int, timeout_s: float = 60.0) -> None:
        """Until so many more requests have been answered."""
        goal, give_up_s = self.answered + more, time.monotonic() + timeout_s
        while self.answered < goal:
            assert time.monotonic() < give_up_s, "the service no longer answers"
            time.sleep(0.005)

    def _ask(self, keeps_connection: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        connected_s = 0.0
        while not self._done.is_set():
            if connection is None:
                connected_s = time.monotonic()
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
            newest, began_s = self.newest, time.monotonic()
            failure = None
            try:
                connection.request("POST", "/v1/classify", BODY, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status != 200:
                    failure = f"{response.status} {answer.get('code')}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = type(error).__name__
            ended_s = time.monotonic()
            with self._lock:
                if failure is not None:
                    kind = "keep-alive" if keeps_connection else "new connection"
                    self.failures.append(Failure(kind, failure, connected_s, ended_s))
                else:
                    version = answer["model"]["version"]
                    self.versions[version] += 1
                    self.latencies_s.append(ended_s - began_s)
                    self.backwards += int(version) < newest
                    self.newest = max(self.newest, int(version))
            if failure is not None or not keeps_connection:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()
