"""The line between a worker process and its parent: one pipe, and what goes over it.

Owns the messages: that a worker is ready, that its event loop still runs, why it cannot serve. Refuses to know what is done
about them (`app.supervisor`) and what the worker serves. POSIX only.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field

_READY = b"\0"
_BEAT = b"\1"
_MAX_MESSAGE_BYTES = 4096


class WorkerFailed(Exception):
    """The worker cannot serve; the message is one line for the operator."""


class ParentLink:
    """The worker's end. `gone` is a file descriptor that is at its end when the parent is gone."""

    def __init__(self, reports: int, gone: int) -> None:
        self._reports = reports
        self.gone = gone
        # A parent that does not read (it was stopped) must not stop the event loop.
        os.set_blocking(reports, False)

    def ready(self, said: str) -> None:
        """Say that connections are answered, and what there is to say of it: one line."""
        self._write(_READY + " ".join(said.split()).encode()[:_MAX_MESSAGE_BYTES] + b"\n")

    def beat(self) -> None:
        """Say that the event loop runs."""
        self._write(_BEAT)

    def fail(self, reason: str) -> None:
        """Last words."""
        self._write(" ".join(reason.split()).encode()[:_MAX_MESSAGE_BYTES])

    def _write(self, message: bytes) -> None:
        with suppress(OSError):  # the parent is gone, which `gone` says too
            os.write(self._reports, message)


@dataclass
class Worker:
    """What the parent knows of a worker. Times are seconds of the monotonic clock."""

    slot: int
    pid: int
    reports: int
    """Read end of the pipe."""
    replaces: Worker | None = None
    started_at_s: float = field(default_factory=time.monotonic)
    ready_at_s: float | None = None
    heard_at_s: float = 0.0
    stop_by_s: float | None = None
    """It was asked to stop, and is killed then."""
    end: str | None = None
    """Why it was killed."""
    message: bytes = b""

    def hear(self) -> tuple[bool, str | None]:
        """Read what came: whether the pipe is still open, and what the worker says of being ready if it just said so."""
        said = os.read(self.reports, _MAX_MESSAGE_BYTES)
        if not said:
            return False, None
        self.heard_at_s = time.monotonic()
        self.message += said.replace(_BEAT, b"")
        if not (self.message.startswith(_READY) and self.message.endswith(b"\n")):
            return True, None
        self.ready_at_s = self.heard_at_s
        detail, self.message = self.message[len(_READY) : -1].decode(), b""
        return True, detail

    def last_words(self) -> str:
        """What is left in the pipe of a worker that has gone; closes it."""
        while said := os.read(self.reports, _MAX_MESSAGE_BYTES):
            self.message += said.replace(_BEAT, b"")
        os.close(self.reports)
        return self.end or self.message.removeprefix(_READY).decode(errors="replace")
