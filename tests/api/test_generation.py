"""The parent's side of a switch, with real sockets and workers that say what the test has them say."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import selectors
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.engine.errors import BundleError
from app.engine.serving_plan import Refusal, ServingPlan, VersionKey, refusal_document
from app.engine.settings import EngineSettings
from app.generation import GenerationSwitch, SharedGeneration


def add(models_dir: Path, version: int) -> None:
    folder = models_dir / "shoes" / str(version)
    folder.mkdir(parents=True)
    (folder / "manifest.sha256").write_text(hashlib.sha256(str(version).encode()).hexdigest())


class Worker:
    """One end of a channel."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.channel.setblocking(False)
        self._received = b""

    def hears(self) -> list[dict[str, Any]]:
        """What the parent has said since the last time."""
        with suppress(BlockingIOError):
            self._received += self.channel.recv(65_536)
        *lines, self._received = self._received.split(b"\n")
        return [json.loads(line) for line in lines]

    def is_asked_for(self) -> list[str] | None:
        """The versions of the plan it was asked to load, the default first; None when it was not asked."""
        asked = [ServingPlan.from_document(message["prepare"]) for message in self.hears() if "prepare" in message]
        self.plan = asked[-1] if asked else None
        return [key.version for key in self.plan.versions()] if self.plan else None

    def says(self, message: dict[str, Any]) -> None:
        self.channel.sendall(json.dumps(message).encode() + b"\n")

    def prepared(self) -> None:
        assert self.plan is not None
        self.says({"prepared": self.plan.generation})

    def refuses(self, version: int) -> None:
        assert self.plan is not None
        key = next(key for key in self.plan.versions() if key.version == str(version))
        self.says({"refused": [refusal_document(Refusal(key, f"shoes/{version}: bad"))], "generation": self.plan.generation})


class Parent:
    """A switch, its loop, and the workers that it believes to have forked."""

    def __init__(self, models_dir: Path) -> None:
        self.switch = GenerationSwitch(EngineSettings(models_dir=models_dir, models_poll_s=0))
        self.selector = selectors.DefaultSelector()
        self.workers: list[Worker] = []

    def opens(self, *pids: int) -> None:
        self.switch.open(self.selector)
        for pid in pids:
            self.forks(pid)

    def forks(self, pid: int) -> Worker:
        self.switch.before_fork()
        assert self.switch._ends is not None
        worker = Worker(self.switch._ends[1].dup())
        self.switch.joined(pid)
        self.workers.append(worker)
        return worker

    def listens(self) -> None:
        for key, _ in self.selector.select(0):
            key.data()

    def looks(self) -> None:
        self.switch.look_now()
        self.switch.tick()

    def all_serve(self) -> None:
        for worker in self.workers:
            while worker.is_asked_for():
                worker.prepared()
                self.listens()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    add(tmp_path, 1)
    parent = Parent(tmp_path)
    yield parent
    for member in parent.switch._members.values():
        parent.switch._let_go(member)
    for worker in parent.workers:
        worker.channel.close()
    parent.selector.close()


@pytest.fixture
def serving(parent: Parent) -> Parent:
    """Two workers, 1 and 2, that serve version 1."""
    parent.opens(1, 2)
    parent.all_serve()
    for worker in parent.workers:
        assert worker.hears() in ([{"settle": 1}], [])
    assert parent.switch.generation.value == 1
    return parent


def test_every_process_reads_the_number_that_the_parent_writes() -> None:
    generation = SharedGeneration()
    generation.value = 2**40
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=lambda: sender.send(generation.value))
    worker.start()
    assert receiver.recv() == 2**40
    worker.join()


def test_at_the_start_all_workers_load_at_once_and_the_last_makes_the_switch(parent: Parent) -> None:
    parent.opens(1, 2)
    first, second = parent.workers
    assert first.is_asked_for() == ["1"]
    assert second.is_asked_for() == ["1"]
    first.prepared()
    parent.listens()
    assert parent.switch.generation.value == 0
    second.prepared()
    parent.listens()
    assert parent.switch.generation.value == 1
    assert first.hears() == second.hears() == [{"settle": 1}]


def test_a_start_without_a_good_version_ends_in_one_line(parent: Parent) -> None:
    parent.opens(1, 2)
    first, _ = parent.workers
    assert first.is_asked_for()
    first.refuses(1)
    with pytest.raises(BundleError, match=r"^no version of model shoes passes: shoes/1: bad$"):
        parent.listens()


def test_one_worker_loads_at_a_time_and_nothing_switches_before_the_last(serving: Parent, tmp_path: Path) -> None:
    first, second = serving.workers
    add(tmp_path, 2)
    serving.looks()
    assert first.is_asked_for() == ["2", "1"]
    assert second.is_asked_for() is None
    first.prepared()
    serving.listens()
    assert serving.switch.generation.value == 1
    assert second.is_asked_for() == ["2", "1"]
    second.prepared()
    serving.listens()
    assert serving.switch.generation.value == 2


def test_a_version_that_one_worker_refuses_is_refused_everywhere(serving: Parent, tmp_path: Path) -> None:
    first, second = serving.workers
    add(tmp_path, 2)
    serving.looks()
    assert first.is_asked_for()
    first.prepared()
    serving.listens()
    assert second.is_asked_for()
    second.refuses(2)
    serving.listens()
    # The plan that follows is the old one with the refusal, for every worker to tell.
    assert first.is_asked_for() == ["1"]
    assert first.plan is not None
    assert [refusal.reason for refusal in first.plan.refused] == ["shoes/2: bad"]
    first.prepared()
    serving.listens()
    assert second.is_asked_for() == ["1"]
    second.prepared()
    serving.listens()
    assert serving.switch.generation.value == 3


def test_a_replacement_comes_up_on_the_present_generation_and_holds_the_next_until_it_is_there(
    serving: Parent, tmp_path: Path
) -> None:
    first, second = serving.workers
    add(tmp_path, 2)
    serving.looks()
    assert first.is_asked_for() == ["2", "1"]
    serving.switch.left(2)
    third = serving.forks(3)
    assert third.is_asked_for() == ["1"], "what is served now, before what comes next"
    assert second.is_asked_for() is None
    first.prepared()
    serving.listens()
    assert serving.switch.generation.value == 1, "a worker that starts could answer with version 1 after the switch"
    third.prepared()
    serving.listens()
    assert third.is_asked_for() == ["2", "1"]
    third.prepared()
    serving.listens()
    assert serving.switch.generation.value == 2


def test_a_worker_that_dies_meanwhile_does_not_hold_the_others_up(serving: Parent, tmp_path: Path) -> None:
    first, _ = serving.workers
    add(tmp_path, 2)
    serving.looks()
    assert first.is_asked_for()
    first.prepared()
    serving.listens()
    serving.switch.left(2)
    assert serving.switch.generation.value == 2
    assert serving.forks(3).is_asked_for() == ["2", "1"]


def test_a_version_that_kills_its_loaders_is_refused(serving: Parent, tmp_path: Path) -> None:
    add(tmp_path, 2)
    serving.looks()
    first, second = serving.workers
    assert first.is_asked_for() == ["2", "1"]
    serving.switch.left(1)
    assert second.is_asked_for() == ["2", "1"], "one may have been killed for another reason"
    serving.switch.left(2)
    third = serving.forks(3)
    assert third.is_asked_for() == ["1"]
    third.prepared()
    serving.listens()
    assert third.is_asked_for() == ["1"]
    assert third.plan is not None
    assert third.plan.refused[0].key == VersionKey("shoes", "2", hashlib.sha256(b"2").hexdigest())
    assert "ended while they loaded it" in third.plan.refused[0].reason


def test_workers_that_were_asked_to_stop_are_no_sign_of_a_bad_version(serving: Parent, tmp_path: Path) -> None:
    add(tmp_path, 2)
    serving.looks()
    first, second = serving.workers
    assert first.is_asked_for() == ["2", "1"]
    for old, new in ((1, 3), (2, 4)):
        serving.forks(new)
        serving.switch.left(old, was_stopped=True)
    third, fourth = serving.workers[2:]
    serving.workers = [third, fourth]
    for _ in range(3):  # what is served, what is new, and once more for whom the other made wait
        serving.all_serve()
    assert serving.switch.generation.value == 2
    assert serving.switch._rollout.plan is not None
    assert serving.switch._rollout.plan.refused == ()
    for worker in (first, second):
        worker.channel.close()


def test_a_long_message_reaches_a_worker_that_reads_late(serving: Parent, tmp_path: Path) -> None:
    first, _ = serving.workers
    [member, *_] = serving.switch._members.values()
    reason = "x" * 3_000_000
    serving.switch._send(member, {"settle": reason})
    serving.switch._send(member, {"settle": 2})
    received = b""
    while received.count(b"\n") < 2:
        with suppress(BlockingIOError):
            received += first.channel.recv(1 << 20)
        serving.listens()
    assert [json.loads(line)["settle"] for line in received.splitlines()] == [reason, 2]


def test_an_answer_to_an_earlier_question_is_not_taken_for_one_to_a_later(serving: Parent, tmp_path: Path) -> None:
    first, second = serving.workers
    add(tmp_path, 2)
    serving.looks()
    assert first.is_asked_for()
    first.refuses(2)
    serving.listens()
    assert first.is_asked_for() == ["1"]
    second.says({"refused": [refusal_document(Refusal(VersionKey("shoes", "1", ""), "late"))], "generation": 2})
    serving.listens()
    first.prepared()
    serving.listens()
    assert second.is_asked_for() == ["1"]
    second.prepared()
    serving.listens()
    assert serving.switch.generation.value == 3


def test_a_worker_that_closes_its_channel_is_waited_for_until_it_has_gone(serving: Parent, tmp_path: Path) -> None:
    first, second = serving.workers
    second.channel.close()
    serving.listens()
    add(tmp_path, 2)
    serving.looks()
    assert first.is_asked_for()
    first.prepared()
    serving.listens()
    assert serving.switch.generation.value == 1, "it may still answer its last requests"
    serving.switch.left(2)
    assert serving.switch.generation.value == 2


def test_a_schedule_is_kept_and_off_means_off(parent: Parent) -> None:
    parent.opens(1)
    parent.all_serve()
    assert parent.switch.tick() is None
    parent.switch.settings = EngineSettings(models_dir=parent.switch.settings.models_dir, models_poll_s=5)
    parent.looks()
    wait_s = parent.switch.tick()
    assert wait_s is not None
    assert 0 < wait_s <= 5
