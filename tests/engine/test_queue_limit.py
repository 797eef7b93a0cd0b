"""How long a queue may be, in a simulation with a clock of its own: one server, Poisson arrivals, or clients that wait."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from app.engine.queue_limit import QueueLimit

PACE_S = 0.003
SHORT_S = 0.04
MAX_ITEMS = 512


@dataclass
class Outcome:
    seconds: float
    waits_s: list[float] = field(default_factory=list)
    refused: int = 0
    """After they were read."""
    refused_unread: int = 0

    @property
    def utilisation(self) -> float:
        return len(self.waits_s) * PACE_S / self.seconds

    def wait_ms(self, share: float) -> float:
        return sorted(self.waits_s)[int(share * (len(self.waits_s) - 1))] * 1000


def simulate(
    limit: QueueLimit,
    *,
    load: float = 0.0,
    clients: int = 0,
    items: int = 1,
    joining_s: float = 0.0,
    burst: int = 0,
    seconds: float = 20.0,
    clump_s: float = 0.0,
    body_s: float = 0.0,
    malformed: float = 0.0,
    seed: int = 1,
) -> Outcome:
    """`load` of capacity at random moments, `clients` that send again when they are answered and a second after a refusal,
    having begun one by one within `joining_s`, both with `items` in a request, and `burst` single items in the tenth second.
    `clump_s`: heads are met so often only, and may be refused; a body ends `body_s` later, and a share of them is
    `malformed`."""
    chance, outcome = random.Random(seed), Outcome(seconds)
    events: list[tuple[float, int, str]] = []
    numbers: Iterator[int] = iter(range(10**9))
    queue: deque[tuple[float, str]] = deque()

    def plan(at_s: float, what: str) -> None:
        heapq.heappush(events, (at_s, next(numbers), what))

    def gap_s() -> float:
        return chance.expovariate(load / PACE_S / items)

    if load:
        plan(gap_s(), "stranger")
    for client in range(clients):
        plan(joining_s * client / clients, "client")
    for _ in range(burst):
        plan(10.0, "burst")
    while events:
        now_s, _, what = heapq.heappop(events)
        if now_s > seconds:
            break
        if what == "answer":
            came_s, who = queue.popleft()
            limit.answer(1)
            outcome.waits_s.append(now_s - came_s)
            if who == "client":
                plan(now_s, "client")
        elif what == "stranger" and clump_s:
            plan(now_s + gap_s(), "stranger")
            plan((now_s // clump_s + 1) * clump_s, "head")
            continue
        elif what == "head":
            if limit.is_overloaded and not limit.lets_in(queued=len(queue), seconds_per_item=PACE_S, now_s=now_s):
                outcome.refused_unread += 1
            elif chance.random() >= malformed:
                plan(now_s + body_s, "body")
            continue
        else:
            if what == "stranger":
                plan(now_s + gap_s(), "stranger")
            count = 1 if what == "burst" else items
            if not limit.admits(count, queued=len(queue), seconds_per_item=PACE_S, now_s=now_s):
                outcome.refused += 1
                if what == "client":
                    plan(now_s + 1, "client")
                continue
            is_idle = not queue
            queue.extend([(now_s, "waits for the rest")] * (count - 1))
            queue.append((now_s, what))
            if not is_idle:
                continue
        if queue:
            plan(now_s + PACE_S * chance.uniform(0.7, 1.3), "answer")
    return outcome


@pytest.fixture
def limit() -> QueueLimit:
    return QueueLimit(max_items=MAX_ITEMS, least_items=4, short_s=SHORT_S)


@pytest.mark.parametrize("load", [2.0, 10.0])
def test_overload_leaves_capacity_used_and_waits_short(load: float, limit: QueueLimit) -> None:
    calm = simulate(QueueLimit(max_items=MAX_ITEMS, least_items=4, short_s=SHORT_S), load=0.8)
    outcome = simulate(limit, load=load)
    assert outcome.utilisation > 0.99
    assert outcome.wait_ms(0.9) < 2 * calm.wait_ms(0.99)
    assert outcome.refused > 0.9 * (load - 1) * outcome.seconds / PACE_S
    assert limit.is_overloaded


@pytest.mark.parametrize("items", [4, 16, 64])
@pytest.mark.parametrize("load", [2.0, 10.0])
def test_overload_by_large_requests_is_noticed_too(load: float, items: int, limit: QueueLimit) -> None:
    outcome = simulate(limit, load=load, items=items, seconds=60)
    assert outcome.wait_ms(0.95) < 1000 * (SHORT_S + 2 * items * PACE_S)
    assert outcome.refused > 0.9 * (load - 1) * outcome.seconds / PACE_S / items
    assert limit.is_overloaded


def test_waits_at_twice_the_load_stay_within_twice_those_at_four_fifths(limit: QueueLimit) -> None:
    """The hundredth that waits longest included: overload is noticed before a hundredth has been let in."""
    calm = simulate(QueueLimit(max_items=MAX_ITEMS, least_items=4, short_s=SHORT_S), load=0.8, seconds=60)
    assert simulate(limit, load=2.0, seconds=60).wait_ms(0.99) < 2 * calm.wait_ms(0.99)


@pytest.mark.parametrize(("load", "at_most_s"), [(1.75, 0.35), (2.5, 0.25), (10.0, 0.25)])
def test_the_more_is_offered_the_sooner_it_is_overload(load: float, at_most_s: float) -> None:
    for seed in range(1, 6):
        limit = QueueLimit(max_items=10**6, least_items=4, short_s=SHORT_S)
        simulate(limit, load=load, seconds=at_most_s + SHORT_S, seed=seed)
        assert limit.is_overloaded, seed


def test_a_crowd_that_gathers_in_a_tenth_of_a_second_is_no_overload(limit: QueueLimit) -> None:
    for client in range(200):
        assert limit.admits(1, queued=client, seconds_per_item=PACE_S, now_s=10.05 + client * 0.1 / 200)
    for tenth in range(1, 8):  # and waits for its answers
        limit.answer(33)
        assert all(limit.admits(1, queued=199, seconds_per_item=PACE_S, now_s=10.15 + tenth / 10) for _ in range(33))
    assert not limit.is_overloaded


def test_nothing_is_refused_below_capacity(limit: QueueLimit) -> None:
    assert simulate(limit, load=0.95).refused == 0


@pytest.mark.parametrize("clients", [64, 200, 500])
def test_clients_that_wait_for_their_answers_are_not_overload(clients: int, limit: QueueLimit) -> None:
    outcome = simulate(limit, clients=clients)
    assert outcome.refused == 0
    assert outcome.utilisation > 0.99


@pytest.mark.parametrize("joining_s", [0.0, 0.1, 0.2, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("clients", "items"), [(7, 64), (8, 64), (16, 32), (5, 100), (2, 256)])
def test_a_few_clients_with_large_requests_are_not_overload(clients: int, items: int, joining_s: float) -> None:
    for seed in range(1, 4):
        limit = QueueLimit(max_items=MAX_ITEMS, least_items=4, short_s=SHORT_S)
        outcome = simulate(limit, clients=clients, items=items, joining_s=joining_s, seed=seed)
        assert outcome.refused == 0, seed
        assert outcome.utilisation > 0.97


@pytest.mark.parametrize("load", [0.0, 0.5])
def test_a_burst_may_fill_the_queue(load: float, limit: QueueLimit) -> None:
    assert simulate(limit, load=load, burst=MAX_ITEMS - 10).refused == 0


@pytest.mark.parametrize("load", [2.0, 10.0])
def test_a_burst_after_an_overload_and_silence_may_fill_the_queue_too(load: float, limit: QueueLimit) -> None:
    simulate(limit, load=load)
    assert limit.is_overloaded
    for queued in range(MAX_ITEMS):
        assert limit.admits(1, queued=queued, seconds_per_item=PACE_S, now_s=22.0), queued
    assert not limit.is_overloaded


def test_a_little_too_much_is_overload_once_the_queue_has_been_full(limit: QueueLimit) -> None:
    outcome = simulate(limit, load=1.2, seconds=60)
    assert outcome.wait_ms(0.8) < 1000 * SHORT_S + 20
    assert outcome.utilisation > 0.98


def test_overload_ends_when_it_is_over(limit: QueueLimit) -> None:
    simulate(limit, load=3.0)
    assert limit.is_overloaded
    for tenth in range(12):
        assert limit.admits(1, queued=0, seconds_per_item=PACE_S, now_s=31 + tenth / 9)
    assert not limit.is_overloaded
    assert limit.has_room(1, queued=MAX_ITEMS - 1, seconds_per_item=PACE_S)
    assert not limit.has_room(2, queued=MAX_ITEMS - 1, seconds_per_item=PACE_S)


def test_a_slow_runtime_keeps_two_batches_even_in_overload() -> None:
    limit = QueueLimit(max_items=MAX_ITEMS, least_items=8, short_s=SHORT_S)
    limit.is_overloaded = True
    assert limit.has_room(1, queued=8, seconds_per_item=1.0)
    assert not limit.has_room(1, queued=9, seconds_per_item=1.0)


def test_a_large_request_is_let_in_by_what_waits_before_it(limit: QueueLimit) -> None:
    limit.is_overloaded = True
    assert limit.has_room(64, queued=5, seconds_per_item=PACE_S)
    assert not limit.has_room(1, queued=69, seconds_per_item=PACE_S)


@pytest.mark.parametrize(("body_s", "malformed"), [(0.002, 0.0), (0.002, 0.5), (0.1, 0.0), (0.1, 0.5)])
def test_of_ten_requests_for_each_answer_hardly_any_is_read_in_vain(body_s: float, malformed: float) -> None:
    """They come in clumps, as an event loop meets them; some take their time to send a body, some send none that is of use. The
    mean of six, which differ by two points."""
    outcomes = []
    for seed in range(1, 7):
        limit = QueueLimit(max_items=MAX_ITEMS, least_items=4, short_s=SHORT_S)
        outcome = simulate(limit, load=10.0, clump_s=0.005, body_s=body_s, malformed=malformed, seed=seed)
        assert outcome.refused_unread > 0.8 * (0.9 * 10 * outcome.seconds / PACE_S)
        assert outcome.refused < 0.2 * len(outcome.waits_s) + MAX_ITEMS
        outcomes.append(outcome)
    assert sum(outcome.utilisation for outcome in outcomes) / len(outcomes) > 0.94
