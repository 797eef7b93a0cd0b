"""Clients that ask again at once leave half of the core to answers: they are slowed, in turn, and none for long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from app import refusal_pace
from app.refusal_pace import MOST_WAIT_S, RefusalPace
from app.settings import Settings
from tests.api.listening import connected, listening, request
from tests.conftest import FakeEngine

pytestmark = pytest.mark.anyio

PRICE_S = 60e-6
"""Of a refusal."""


class Loop:
    """A clock that is set by hand, and a thread that works while refusals are made."""

    def __init__(self) -> None:
        self.now_s = self.thread_s = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def thread_time(self) -> float:
        return self.thread_s

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.timers.append((self.now_s + delay_s, call))

    def run_until(self, until_s: float) -> None:
        """What is due, in order; later where the thread was at work."""
        while due := sorted((timer for timer in self.timers if timer[0] <= until_s), key=lambda timer: timer[0]):
            self.timers.remove(due[0])
            self.now_s = max(self.now_s, due[0][0])
            due[0][1]()
        self.now_s = max(self.now_s, until_s)

    def refuse(self) -> None:
        self.now_s += PRICE_S
        self.thread_s += PRICE_S


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def pace(loop: Loop) -> RefusalPace:
    return RefusalPace(cast(Any, loop), loop.thread_time)


class Impatient:
    """Clients that ask again as soon as they are refused."""

    def __init__(self, loop: Loop, pace: RefusalPace, clients: int) -> None:
        self.loop, self.pace = loop, pace
        self.refused = [0] * clients
        self.longest_s = 0.0
        self.have_gone = False
        for client in range(clients):
            loop.call_later(0.0, lambda client=client: self.ask(client))  # type: ignore[misc]

    def ask(self, client: int) -> None:
        self.loop.refuse()
        asked_s = self.loop.now_s
        if not self.pace.has_to_wait(lambda: self.leave(client, asked_s)):
            self.leave(client, asked_s)

    def leave(self, client: int, asked_s: float) -> None:
        self.refused[client] += 1
        self.longest_s = max(self.longest_s, self.loop.now_s - asked_s)
        if not self.have_gone:
            self.loop.call_later(0.0002, lambda: self.ask(client))


def test_clients_that_ask_again_at_once_take_half_of_the_thread_and_share_it(loop: Loop, pace: RefusalPace) -> None:
    clients = Impatient(loop, pace, 256)
    loop.run_until(101.0)
    assert loop.thread_s > 100.8
    loop.run_until(105.0)
    before_s, clients.refused = loop.thread_s, [0] * 256
    loop.run_until(115.0)
    assert (loop.thread_s - before_s) / 10 == pytest.approx(0.5, abs=0.1)
    assert min(clients.refused) > 0.9 * max(clients.refused)
    assert clients.longest_s < MOST_WAIT_S


def test_nobody_waits_longer_however_many_ask(loop: Loop, pace: RefusalPace) -> None:
    clients = Impatient(loop, pace, 5000)
    loop.run_until(106.0)
    assert MOST_WAIT_S <= clients.longest_s < MOST_WAIT_S + 5000 * PRICE_S + 0.02, "which the thread takes for one of each"
    assert min(clients.refused) > 10


@pytest.mark.parametrize("per_s", [100, 4000, 7000])
def test_strangers_are_refused_at_once_while_half_of_the_thread_is_left(loop: Loop, pace: RefusalPace, per_s: int) -> None:
    for number in range(5 * per_s):
        loop.run_until(100.0 + number / per_s)
        loop.refuse()
        assert not pace.has_to_wait(lambda: None)


def test_waiting_ends_when_there_is_less_to_refuse(loop: Loop, pace: RefusalPace) -> None:
    clients = Impatient(loop, pace, 256)
    loop.run_until(105.0)
    assert pace.has_to_wait(lambda: None)
    clients.have_gone = True
    for number in range(3000):
        loop.run_until(106.0 + number / 1000)
        loop.refuse()
        pace.has_to_wait(lambda: None)
    assert not pace.has_to_wait(lambda: None)
    assert clients.longest_s > 0.01


def test_after_a_silence_nobody_waits(loop: Loop, pace: RefusalPace) -> None:
    clients = Impatient(loop, pace, 256)
    loop.run_until(105.0)
    clients.have_gone = True
    loop.run_until(107.0)
    assert not pace.has_to_wait(lambda: None)


def test_one_that_fails_does_not_keep_the_others(loop: Loop, pace: RefusalPace) -> None:
    left: list[int] = []

    def fail() -> None:
        raise RuntimeError("its connection")

    clients = Impatient(loop, pace, 256)
    loop.run_until(105.0)
    clients.have_gone = True
    assert pace.has_to_wait(fail)
    assert pace.has_to_wait(lambda: left.append(1))
    with pytest.raises(RuntimeError, match="its connection"):
        loop.run_until(105.2)
    loop.run_until(105.2)
    assert left == [1]


async def test_over_sockets_they_are_slowed_and_hear_everything(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter(range(10**9))
    asked = asyncio.get_running_loop()
    monkeypatch.setattr(refusal_pace, "_latest", RefusalPace(asked, lambda: float(next(busy))))
    engine.overloaded = True
    body = json.dumps({"items": [{"text": "red"}]}).encode()
    took_s: list[float] = []

    async def ask_often(port: int, name: str) -> None:
        async with connected(port) as client:
            while asked.time() < ends_s:
                number = len(took_s)
                told = f"X-Request-ID: {name}-{number}"
                began_s = asked.time()
                received = await client.ask(request("/v1/classify", body, "Content-Type: application/json", told))
                took_s.append(asked.time() - began_s)
                assert received.startswith(b"HTTP/1.1 503 ")
                assert f"\r\nx-request-id: {name}-{number}\r\n".encode() in received

    async with listening(Settings(), engine) as port:
        ends_s = asked.time() + 1.0
        await asyncio.gather(*(ask_often(port, f"client-{number}") for number in range(10)))
    assert min(took_s[-10:]) > 0.01
    assert max(took_s) < 1.0
    assert engine.started == 0
