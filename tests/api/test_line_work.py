"""A stream's lines leave the queue to those who cannot wait, and a full one is asked by one of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import app.api.line_work
from app.api.items import ReceivedItem
from app.api.line_work import LineWork, Outcome
from app.engine.errors import DeadlineExceededError, NotReadyError, OverloadedError
from app.engine.items import Item, ModelRef, Reply, Timing

pytestmark = pytest.mark.anyio
LINE = ReceivedItem(None, "", Item(None, "a red mug"))


def lines(ask: Callable[[Item], Any], *, is_short: Callable[[], bool], patience_s: float = 30.0) -> LineWork[str]:
    return LineWork(ask, is_short=is_short, timeout_s=5.0, patience_s=patience_s, most_lines=16)


async def answered(_: Item) -> Reply[str]:
    await asyncio.sleep(0)
    return Reply(ModelRef("tiny", "1"), ["ok"], Timing())


def start(work: LineWork[str], count: int) -> list[asyncio.Task[Outcome[str]]]:
    return [asyncio.create_task(work.answer(LINE)) for _ in range(count)]


async def test_no_line_is_offered_while_the_queue_is_long() -> None:
    asked, is_short = 0, False

    async def ask(item: Item) -> Reply[str]:
        nonlocal asked
        asked += 1
        return await answered(item)

    tasks = start(lines(ask, is_short=lambda: is_short), 8)
    await asyncio.sleep(0.2)
    assert asked == 0
    is_short = True
    outcomes = await asyncio.gather(*tasks)
    assert asked == 8
    assert all(outcome.problem is None for outcome in outcomes)


async def test_where_it_stays_long_a_line_comes_to_its_turn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.api.line_work, "_POLITE_S", 0.1)
    outcomes = await asyncio.gather(*start(lines(answered, is_short=lambda: False), 3))
    assert all(outcome.problem is None for outcome in outcomes)


async def test_a_full_queue_is_asked_by_one_line_at_a_time() -> None:
    asked, has_room = 0, False

    async def ask(item: Item) -> Reply[str]:
        nonlocal asked
        asked += 1
        if not has_room:
            raise OverloadedError("full", retry_after_s=1)
        return await answered(item)

    tasks = start(lines(ask, is_short=lambda: True), 16)
    await asyncio.sleep(0.3)
    assert 1 < asked <= 4, "at first after 50 ms, then after twice as long each time"
    has_room = True
    outcomes = await asyncio.gather(*tasks)
    assert all(outcome.problem is None for outcome in outcomes)


async def test_lines_that_nobody_takes_fail_when_their_patience_is_over() -> None:
    async def ask(_: Item) -> Reply[str]:
        raise OverloadedError("full", retry_after_s=1)

    outcomes = await asyncio.gather(*start(lines(ask, is_short=lambda: True, patience_s=0.2), 4))
    assert [outcome.problem.type.code for outcome in outcomes if outcome.problem] == ["overloaded"] * 4


async def test_a_line_that_is_refused_late_holds_up_no_sibling() -> None:
    async def ask(_: Item) -> Reply[str]:
        await asyncio.sleep(0.05)
        raise NotReadyError("its thread has died")

    work = LineWork(ask, is_short=lambda: True, timeout_s=5.0, patience_s=0.3, most_lines=1)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*start(work, 2))
    assert [outcome.problem.type.code for outcome in outcomes if outcome.problem] == ["not_ready"] * 2


async def test_lines_without_time_are_answered_so_at_once_though_the_engine_lets_go_of_them_late() -> None:
    let_go_s = 0.0

    async def ask(_: Item) -> Reply[str]:
        nonlocal let_go_s
        loop = asyncio.get_running_loop()
        if loop.time() < let_go_s:
            raise OverloadedError("longer than the request's time", retry_after_s=1)
        await asyncio.sleep(0.002)
        let_go_s = loop.time() + 0.004
        raise DeadlineExceededError("too late")

    work = LineWork(ask, is_short=lambda: True, timeout_s=0.002, patience_s=30.0, most_lines=16)
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*start(work, 64))
    assert {outcome.problem.type.code for outcome in outcomes if outcome.problem} == {"deadline_exceeded"}


async def test_a_line_that_is_given_up_makes_room_for_its_siblings() -> None:
    never = asyncio.Event()

    async def ask(item: Item) -> Reply[str]:
        if not never.is_set() and item.text == "slow":
            await never.wait()
        return await answered(item)

    work = LineWork(ask, is_short=lambda: True, timeout_s=5.0, patience_s=30.0, most_lines=1)
    slow = asyncio.create_task(work.answer(ReceivedItem(None, "", Item(None, "slow"))))
    other = asyncio.create_task(work.answer(LINE))
    await asyncio.sleep(0.05)
    assert not other.done()
    slow.cancel()
    assert (await other).problem is None
