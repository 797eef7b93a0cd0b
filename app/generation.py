"""One generation of models for several workers: loaded by all, then switched by one number that all read.

Owns the number in shared memory, the conversation of the parent with its workers, and both ends of it. The parent decides
(`app.engine.rollout`) and loads nothing; a worker loads what it is told and serves what the number says. Refuses to know
how processes are started and what requests are.

    parent -> worker   {"prepare": plan}      load what the plan names
    worker -> parent   {"prepared": number}   every version of that plan is in memory
    worker -> parent   {"refused": [...], "generation": number}
    parent -> worker   {"settle": number}     the number has changed: drain and free what is no longer named
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from app.engine.errors import BundleError
from app.engine.rollout import Rollout
from app.engine.serving_plan import Refusal, ServingPlan, refusal_document, refusal_from_document
from app.engine.settings import EngineSettings
from app.engine.watch import SETTLE_S
from app.outbox import Outbox

if TYPE_CHECKING:
    from app.engine.engine import Engine

log = structlog.stdlib.get_logger("itemlens")

_MAX_DEATHS = 2
"""Workers that die while they load a version before the version is held to be the reason: one may have been killed."""
_CHUNK_BYTES = 65_536
_MAX_LINE_BYTES = 16 * 1024 * 1024
"""Of a message; it holds the reason of every refusal there is."""


class SharedGeneration:
    """A number that the parent writes and every worker reads. Made before the workers are forked."""

    def __init__(self) -> None:
        # One aligned machine word is written and read at once, so that no reader ever sees half of it.
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    @property
    def value(self) -> int:
        return self._words[0]

    @value.setter
    def value(self, number: int) -> None:
        self._words[0] = number


@dataclass
class _Member:
    """One worker process, as the parent knows it. `asked`, `prepared`: generations; `is_busy` until it has answered."""

    pid: int
    channel: socket.socket
    outbox: Outbox
    received: bytes = b""
    asked: int = 0
    prepared: int = 0
    is_busy: bool = False


@dataclass
class GenerationSwitch:
    """The parent's side. The supervisor calls it at the events that it is named for; every method returns at once.

    A new generation takes effect when every worker process there is has loaded it: one that is just starting, or still
    answering its last requests, counts too, for it could answer with an older one. A version that one worker refuses is
    refused for all. While the service runs one worker loads at a time, so that the others serve undisturbed.
    """

    settings: EngineSettings
    _members: dict[int, _Member] = field(default_factory=dict)
    _proposal: ServingPlan | None = None
    _deaths: int = 0
    _look_at_s: float | None = None
    _is_asked: bool = False
    _ends: tuple[socket.socket, socket.socket] | None = None

    def __post_init__(self) -> None:
        self.generation = SharedGeneration()
        self._rollout = Rollout(self.settings)

    def open(self, selector: selectors.BaseSelector) -> None:
        """Look at the models folder for the first time. Raises BundleError when there is nothing to serve."""
        self._selector = selector
        self._rollout.look(at_once=True)
        self._proposal = self._rollout.proposal()
        self._schedule(is_settled=True)

    # --- workers come and go ----------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Make the channel of the worker that comes next."""
        self._ends = socket.socketpair()

    def in_worker(self) -> None:
        """In the new process: let go of what is the parent's."""
        assert self._ends is not None  # noqa: S101  (`before_fork` was called)
        self._ends[0].close()
        for member in self._members.values():
            member.channel.close()

    def joined(self, pid: int) -> None:
        """In the parent: the worker has been forked."""
        assert self._ends is not None  # noqa: S101  (`before_fork` was called)
        ours, theirs = self._ends
        self._ends = None
        theirs.close()
        ours.setblocking(False)
        member: _Member = _Member(pid, ours, Outbox(ours, self._selector, lambda: self._heard(member)))
        self._members[pid] = member
        self._advance()

    def left(self, pid: int, *, was_stopped: bool = False) -> None:
        """The worker has ended; `was_stopped`: as it was asked to, so that nothing is to blame for it."""
        member = self._members.pop(pid, None)
        if member is None:
            return
        self._let_go(member)
        is_suspect = member.is_busy and not was_stopped
        if self._proposal is not None and is_suspect and member.asked == self._proposal.generation:
            self._deaths += 1
            if self._deaths >= _MAX_DEATHS and self._rollout.plan is not None:
                served = set(self._rollout.plan.versions())
                new = [key for key in self._proposal.versions() if key not in served]
                reason = "worker processes ended while they loaded it; see their exit codes in the log"
                self._refuse([Refusal(key, f"{key.name}/{key.version}: {reason}", is_temporary=True) for key in new])
        self._advance()

    def worker_link(self) -> WorkerLink:
        """In the worker: its end."""
        assert self._ends is not None  # noqa: S101  (`before_fork` was called)
        return WorkerLink(self._ends[1], self.generation)

    # --- the models folder ------------------------------------------------------------------------------------------

    def look_now(self) -> None:
        """The operator says that the folder has changed."""
        self._is_asked = True
        self._look_at_s = time.monotonic()

    def tick(self) -> float | None:
        """Do what is due. Returns in how many seconds to come back, None for not before something happens."""
        if self._look_at_s is None or self._proposal is not None:
            return None
        if time.monotonic() >= self._look_at_s:
            asked, self._is_asked = self._is_asked, False
            self._schedule(is_settled=self._rollout.look(at_once=asked))
            self._advance()
        return None if self._look_at_s is None else max(0.0, self._look_at_s - time.monotonic())

    def _schedule(self, *, is_settled: bool) -> None:
        poll_s = self.settings.models_poll_s
        pause_s = poll_s if is_settled else min(SETTLE_S, poll_s)
        self._look_at_s = time.monotonic() + pause_s if poll_s else None

    # --- the conversation -------------------------------------------------------------------------------------------

    def _heard(self, member: _Member) -> None:
        try:
            chunk = member.channel.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._let_go(member)  # its end is noticed as the end of a process
            return
        *lines, member.received = (member.received + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            member.is_busy = False
            if "prepared" in message:
                member.prepared = message["prepared"]
            elif self._proposal is not None and message["generation"] == self._proposal.generation:
                self._refuse([refusal_from_document(refusal) for refusal in message["refused"]])
        self._advance()

    def _refuse(self, refusals: list[Refusal]) -> None:
        self._rollout.refuse(refusals)
        self._proposal, self._deaths = None, 0

    def _advance(self) -> None:
        """Take every step that can be taken now. Raises BundleError, at start alone, when nothing can be served."""
        serving = self._rollout.plan
        if self._proposal is None:
            self._proposal = self._rollout.proposal()
        for member in self._members.values():
            if serving is not None and member.asked < serving.generation and not member.is_busy:
                self._ask(member, serving)
        if self._proposal is None:
            return
        behind = [member for member in self._members.values() if member.prepared < self._proposal.generation]
        if self._members and not behind:
            self._commit(self._proposal)
            return
        if serving is not None and any(member.is_busy for member in self._members.values()):
            return
        free = [member for member in behind if not member.is_busy and member.asked < self._proposal.generation]
        for member in free if serving is None else free[:1]:
            self._ask(member, self._proposal)

    def _ask(self, member: _Member, plan: ServingPlan) -> None:
        member.asked, member.is_busy = plan.generation, True
        self._send(member, {"prepare": plan.document()})

    def _commit(self, plan: ServingPlan) -> None:
        self._rollout.adopt(plan)
        self._proposal, self._deaths = None, 0
        self.generation.value = plan.generation
        for member in self._members.values():
            self._send(member, {"settle": plan.generation})
        self._advance()

    def _send(self, member: _Member, message: dict[str, Any]) -> None:
        member.outbox.send(json.dumps(message).encode() + b"\n")

    def _let_go(self, member: _Member) -> None:
        member.outbox.close()


class WorkerLink:
    """The worker's side: carries the parent's word out on the engine."""

    def __init__(self, channel: socket.socket, generation: SharedGeneration) -> None:
        self._channel = channel
        self._generation = generation

    async def open_engine(self, settings: EngineSettings) -> Engine:
        """An engine that serves the parent's present generation and follows it from now on."""
        from app.engine.engine import Engine

        self._channel.setblocking(False)
        engine = Engine(settings, self._generation)
        serving = asyncio.Event()
        following = asyncio.create_task(self._follow(engine, serving))
        engine.accompany(following)
        waiting = asyncio.create_task(serving.wait())
        try:
            await asyncio.wait([following, waiting], return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
                raise BundleError("the parent process ended while the models were being loaded")
        except BaseException:
            await engine.close()
            raise
        finally:
            waiting.cancel()
        following.add_done_callback(_stop_when_lost)
        return engine

    async def _follow(self, engine: Engine, serving: asyncio.Event) -> None:
        """Until the parent is gone. Raises BundleError when what the others serve cannot be loaded here."""
        reader, writer = await asyncio.open_unix_connection(sock=self._channel, limit=_MAX_LINE_BYTES)
        while line := await reader.readline():
            message = json.loads(line)
            if "prepare" in message:
                plan = ServingPlan.from_document(message["prepare"])
                refusals = await engine.prepare(plan)
                if refusals and plan.generation == self._generation.value:
                    raise BundleError("; ".join(refusal.reason for refusal in refusals))
                answer: dict[str, Any] = {"prepared": plan.generation}
                if refusals:
                    answer = {"refused": [refusal_document(refusal) for refusal in refusals], "generation": plan.generation}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
            else:
                engine.settle()
            if engine.is_ready():
                serving.set()


def _stop_when_lost(following: asyncio.Task[None]) -> None:
    """A worker that no longer follows would hold everybody at the present generation for ever: it makes way for another."""
    if not following.cancelled():
        if following.exception() is not None:
            log.error("worker_lost_its_parent", exc_info=following.exception())
        os.kill(os.getpid(), signal.SIGTERM)
