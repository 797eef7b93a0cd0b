"""Who goes first on a core that threads share."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable

import pytest

from app.engine import priority
from app.engine.priority import end_turn, give_way, take_turns

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


def turn_ms() -> float:
    """Of this thread, as asked for; 0 where it is the system's own."""
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]  # sched_getattr
    attributes = ctypes.create_string_buffer(48)
    called = ctypes.CDLL(None).syscall(ctypes.c_long(number), ctypes.c_long(0), attributes, ctypes.c_long(48), ctypes.c_long(0))
    assert called == 0
    runtime_ns: int = struct.unpack_from("=Q", attributes, 24)[0]
    return runtime_ns / 1e6


@pytest.fixture(params=["one call", "older calls"])
def _calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "older calls":  # a kernel, or a sandbox, without the one
        monkeypatch.setattr(priority, "_SCHED_SETATTR", {platform.machine(): 99_999})


@pytest.mark.usefixtures("_calls")
def test_a_loop_that_takes_turns_interrupts_nobody_and_keeps_its_weight() -> None:
    def work() -> None:
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        take_turns()
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own

    in_a_thread(work)
    assert os.sched_getscheduler(0) != os.SCHED_BATCH, "other threads are as they were"


@pytest.mark.usefixtures("_calls")
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


@pytest.mark.skipif(
    platform.machine() not in priority._SCHED_SETATTR or tuple(map(int, platform.release().split(".")[:2])) < (6, 12),
    reason="turns have lengths since Linux 6.12",
)
def test_a_loop_and_its_runtime_take_long_turns_and_whom_they_start_do_not() -> None:
    lengths_ms: list[float] = []

    def run(work: Callable[[], None], then: Callable[[], None]) -> None:
        work()
        lengths_ms.append(turn_ms())
        in_a_thread(then)

    in_a_thread(
        lambda: run(
            take_turns,
            lambda: run(lambda: give_way(in_long_turns=True), lambda: run(give_way, end_turn)),
        )
    )
    loop_ms, runtime_ms, other_ms = lengths_ms
    assert loop_ms == runtime_ms == 20.0
    assert other_ms < 10.0


@pytest.mark.parametrize("change", [take_turns, give_way])
def test_what_is_forbidden_is_done_without(change: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(priority, "_SCHED_SETATTR", {})
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    monkeypatch.setattr(os, "setpriority", forbidden)
    in_a_thread(change)
