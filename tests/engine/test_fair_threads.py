"""Who asks for much waits behind himself, not before others."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
import structlog.testing

from app.engine.fair_threads import FairThreads


def test_callers_are_served_in_turn_and_each_in_order() -> None:
    threads = FairThreads(1, name="test", initializer=lambda: None)
    done: list[tuple[str, int]] = []
    may_begin, hog, other = threading.Event(), object(), object()
    threads.submit(object(), lambda: may_begin.wait(5))
    for number in range(50):
        threads.submit(hog, partial(done.append, ("hog", number)))
    for number in range(2):
        threads.submit(other, partial(done.append, ("other", number)))
    may_begin.set()
    threads.shutdown()
    assert done[:4] == [("hog", 0), ("other", 0), ("hog", 1), ("other", 1)]
    assert done[4:] == [("hog", number) for number in range(2, 50)]


def test_as_many_threads_work_as_there_is_work_for() -> None:
    begun = threading.Semaphore(0)
    initialised: list[str] = []
    threads = FairThreads(3, name="test", initializer=lambda: initialised.append(threading.current_thread().name))
    may_end = threading.Event()

    def work() -> None:
        begun.release()
        may_end.wait(5)

    for _ in range(5):
        threads.submit(threads, work)
    for _ in range(3):
        assert begun.acquire(timeout=5)
    assert not begun.acquire(timeout=0.05), "three at once and no more"
    may_end.set()
    threads.shutdown()
    assert sorted(initialised) == ["test-0", "test-1", "test-2"]


def test_a_thread_that_rests_takes_the_next_task() -> None:
    threads = FairThreads(4, name="test", initializer=lambda: None)
    for _ in range(3):
        done = threading.Event()
        threads.submit(threads, done.set)
        assert done.wait(5)
        give_up_s = time.monotonic() + 5
        while threads._idle != len(threads._threads) and time.monotonic() < give_up_s:
            time.sleep(0.001)
    assert len(threads._threads) == 1
    both = threading.Barrier(2)
    for _ in range(2):
        threads.submit(threads, partial(both.wait, 5))
    both_done = threading.Event()
    threads.submit(threads, both_done.set)
    assert both_done.wait(5)
    assert not both.broken, "one that rests does not do the work of two"
    threads.shutdown()
    assert not threads._threads[0].is_alive()


def test_a_task_that_raises_ends_nothing() -> None:
    threads = FairThreads(1, name="test", initializer=lambda: None)
    done = threading.Event()
    with structlog.testing.capture_logs() as logs:
        threads.submit(threads, lambda: 1 / 0)
        threads.submit(threads, done.set)
        assert done.wait(5)
        threads.shutdown()
    assert [(entry["event"], entry["error"]) for entry in logs] == [("task_failed", "ZeroDivisionError")]


def test_what_there_are_no_threads_for_is_done_by_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    allowed = 0

    def start_if_allowed(thread: threading.Thread) -> None:
        nonlocal allowed
        if not allowed:
            raise RuntimeError("can't start new thread")
        allowed -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_allowed)
    threads = FairThreads(2, name="test", initializer=lambda: None)
    done: list[str] = []
    threads.submit(threads, lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name], "with none at all, who submits it does it"
    allowed = 1
    may_end, has_begun = threading.Event(), threading.Event()

    def work() -> None:
        has_begun.set()
        may_end.wait(5)

    threads.submit(threads, work)
    assert has_begun.wait(5)
    threads.submit(threads, lambda: done.append(threading.current_thread().name))
    assert len(done) == 1, "the one there is, is busy"
    allowed = 1
    third = threading.Event()
    threads.submit(threads, third.set)
    assert third.wait(5), "there can be more of them again"
    may_end.set()
    threads.shutdown()
    assert done[1] in ("test-0", "test-1")
