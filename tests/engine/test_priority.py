"""Who goes first on a core that threads share."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import pytest

from app.engine.priority import give_way, take_turns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are scheduled one by one on Linux alone")


def in_a_thread(work: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_a_loop_that_takes_turns_interrupts_nobody_and_keeps_its_weight() -> None:
    def work() -> None:
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        take_turns()
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own

    in_a_thread(work)
    assert os.sched_getscheduler(0) != os.SCHED_BATCH, "other threads are as they were"


def test_a_thread_that_gives_way_does_not_take_turns_as_its_starter_does() -> None:
    def work() -> None:
        take_turns()
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

        def started() -> None:
            give_way()
            assert os.sched_getscheduler(0) == os.SCHED_OTHER
            assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) > own

        in_a_thread(started)

    in_a_thread(work)


@pytest.mark.parametrize("change", [take_turns, give_way])
def test_what_is_forbidden_is_done_without(change: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    monkeypatch.setattr(os, "setpriority", forbidden)
    in_a_thread(change)
