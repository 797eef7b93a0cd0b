"""Clients of every manner, sending at random moments at a given rate, and an account of what became of each request.

Owns sockets and the account. Refuses to know what is sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from scripts.benchmark.connection import Answer, ConnectionLostError, parse_answer
from scripts.soak.traffic import Shot

_ANSWER_TIMEOUT_S = 60.0
_SLOW_FOR_S = 10.0
_MOST_UNDER_WAY = 512
_FRESH_SHARE = 0.1
"""Of the ordinary requests; the others use a connection that is open."""


@dataclass(slots=True)
class Account:
    """`failures`: by kind and what happened; ordinary requests that were not answered with 200, any 5xx, and whoever was left
    waiting."""

    requests: int = 0
    hostile: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """By status; "closed" and "left" where there was none."""
    server_errors: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    """Of ordinary requests."""

    def count(self, shot: Shot, what: str, elapsed_ms: float) -> None:
        self.requests += 1
        self.hostile += shot.is_hostile
        self.statuses[what] += 1
        is_server_error = what.startswith("5")
        self.server_errors += is_server_error
        if is_server_error or what == "unanswered" or (not shot.is_hostile and what != "200"):
            self.failures[f"{shot.kind}: {what}"] += 1
        if not shot.is_hostile:
            self.latencies_ms.append(elapsed_ms)


class Clients:
    """All of them in one event loop. `account` may be read while they run."""

    def __init__(self, port: int, *, seed: int) -> None:
        self.account = Account()
        self._port = port
        self._chance = random.Random(seed)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def run(self, next_shot: Callable[[], Shot], *, rate_per_s: float, seconds: float) -> None:
        """Send until the time is over, take the answers that are due, and close every connection."""
        clock = time.monotonic
        ends_s = clock() + seconds
        due_s = clock()
        under_way: set[asyncio.Task[None]] = set()
        while (due_s := due_s + self._chance.expovariate(rate_per_s)) < ends_s:
            await asyncio.sleep(max(0.0, due_s - clock()))
            if len(under_way) >= _MOST_UNDER_WAY:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                due_s = max(due_s, clock())  # a service that is behind is not asked for all that it missed
            task = asyncio.create_task(self.fire(next_shot()))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)
        self.close()

    async def fire(self, shot: Shot) -> None:
        """Send one thing in its manner and count what came of it."""
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                what = await (self._be_hostile(shot) if shot.is_hostile else self._ask(shot))
        except TimeoutError:
            what = "unanswered"
        except (OSError, ConnectionLostError, asyncio.IncompleteReadError):
            what = "closed"
        self.account.count(shot, what, (time.perf_counter() - began_s) * 1000)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _ask(self, shot: Shot) -> str:
        connection = None
        if self._chance.random() >= _FRESH_SHARE:
            while self._idle and connection is None:
                connection = self._idle.pop()
                if connection[0].at_eof() or connection[1].is_closing():
                    connection[1].close()
                    connection = None
        reader, writer = connection or await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(shot.wire)
            answer = await _receive(reader)
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return str(answer.status)

    async def _be_hostile(self, shot: Shot) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(shot.wire)
            if shot.manner == "hangs up":
                await writer.drain()
                await asyncio.sleep(self._chance.choice((0.0, 0.002, 0.02)))
                return "left"
            if shot.manner == "deaf":
                await asyncio.sleep(_SLOW_FOR_S)
                return "left"
            if shot.manner == "dribbles":
                return await _dribble(reader, writer)
            answering = asyncio.create_task(_receive(reader))
            try:
                for _ in range(shot.repeats if shot.tail else 0):
                    if answering.done():
                        break
                    writer.write(shot.tail)
                    await writer.drain()
                if not shot.tail and writer.can_write_eof():
                    writer.write_eof()
                return str((await answering).status)
            finally:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
        finally:
            writer.transport.abort() if shot.manner != "reads" else writer.close()


async def _dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """A byte a second until the service has had enough."""
    answering = asyncio.create_task(_receive(reader))
    try:
        while not answering.done():
            writer.write(b" ")
            await asyncio.wait([answering], timeout=1.0)
        return str(answering.result().status)
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


async def _receive(reader: asyncio.StreamReader) -> Answer:
    """Raises ConnectionLostError when the service closes before a whole answer."""
    received = bytearray()
    while True:
        data = await reader.read(256 * 1024)
        if not data:
            raise ConnectionLostError
        received += data
        while received.startswith(b"HTTP/1.1 1") and (head_end := received.find(b"\r\n\r\n")) >= 0:
            del received[: head_end + 4]  # "100 Continue": the answer is still to come
        answer = parse_answer(received)
        if answer is not None:
            return answer
