"""A process beside the service that decodes large photos, and can be killed where a thread cannot.

Owns its life: started with the first large photo, kept warm, ended when idle, replaced when a photo takes too much time
or memory. Refuses to know which photos are large (`app.engine.photo_decoder`) and how one is decoded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from app.engine.errors import ItemUnavailableError
from app.engine.images import is_damaged, takes_too_much
from app.engine.photo_worker import ANSWER, ERRORS, READY, REQUEST

logger = structlog.get_logger(__name__)

# The process's own limit is one of processor time and ends it first, unless the machine is busy or it was stopped.
_WAIT_PER_SECOND = 4.0
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 2.0
# By its own clock; by the service or the kernel; by Python, out of memory. Whatever else ends it is a fault that a damaged
# photo found.
_OUT_OF_TIME_OR_MEMORY = (-27, -9, 1)


class PhotoProcessError(ItemUnavailableError):
    """The process cannot be started; why is in the log."""

    def __init__(self) -> None:
        super().__init__("The machine has no room to decode a photo of this kind now; send a smaller one, or try again later.")


class _Ended(Exception):
    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class _Running:
    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    answers: IO[bytes]


class PhotoProcess:
    """One photo at a time; callers on other threads wait."""

    def __init__(self, *, timeout_s: float, memory_bytes: int, idle_s: float = 60.0) -> None:
        """`timeout_s`: processor time for one photo; `memory_bytes`: what decoding it may take; `idle_s`: seconds without a
        photo until the process ends."""
        self._arguments = [str(timeout_s), str(memory_bytes), str(idle_s)]
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._running: _Running | None = None

    @property
    def pid(self) -> int | None:
        """None before the first photo."""
        return self._running.process.pid if self._running else None

    def decode_photo(self, data: bytes, *, height: int, width: int, max_pixels: int) -> NDArray[np.uint8]:
        """`images.decode_photo` in the process: the same pixels and errors, and ImageTooLargeError for a photo that
        takes too much time or memory.

        Raises PhotoProcessError when the machine lets no process be started.
        """
        request = REQUEST.pack(len(data), height, width, max_pixels)
        with self._lock:
            try:
                try:
                    kind, answer = self._exchange(request, data)
                except _Ended as ended:
                    if ended.exit_code != 0:
                        raise
                    kind, answer = self._exchange(request, data)  # it had just ended for want of work
            except _Ended as ended:
                logger.warning("photo_process_died", exit_code=ended.exit_code)
                too_much = ended.exit_code in _OUT_OF_TIME_OR_MEMORY
                raise takes_too_much() if too_much else is_damaged() from None
        if kind:
            raise ERRORS[kind - 1](answer.decode(), field="image")
        return np.frombuffer(answer, np.uint8).reshape(height, width, 3)

    def close(self) -> None:
        """End the process. A photo still in work is waited for: its time is limited."""
        with self._lock:
            self._end()

    def _exchange(self, request: bytes, data: bytes) -> tuple[int, bytes]:
        running = self._running
        if running is None or running.process.poll() is not None:
            self._end()
            running = self._start()
        watch = threading.Timer(self._timeout_s * _WAIT_PER_SECOND, running.process.kill)
        watch.start()
        try:
            running.requests.write(request)
            running.requests.write(data)
            running.requests.flush()
            kind, size = ANSWER.unpack(self._read(running, ANSWER.size))
            return kind, self._read(running, size)
        except OSError:  # a broken pipe
            raise _Ended(self._end()) from None
        finally:
            watch.cancel()

    def _start(self) -> _Running:
        # What this process has been given in its environment (digests of keys, say) is none of that one's business.
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
        environment = kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        try:
            process = subprocess.Popen(  # noqa: S603  (nothing of it comes from a request)
                [sys.executable, "-B", "-m", "app.engine.photo_worker", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise _not_started(error.strerror or type(error).__name__) from None
        running = _Running(process, cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout))
        self._running = running
        watch = threading.Timer(_START_TIMEOUT_S, process.kill)
        watch.start()
        try:
            self._read(running, len(READY))
        except _Ended as ended:
            raise _not_started(f"it ended with exit code {ended.exit_code}") from None
        finally:
            watch.cancel()
        return running

    def _read(self, running: _Running, size: int) -> bytes:
        received = running.answers.read(size)
        if len(received) < size:
            raise _Ended(self._end())
        return received

    def _end(self) -> int:
        """The exit code; 0 where there was no process."""
        running, self._running = self._running, None
        if running is None:
            return 0
        with suppress(OSError):  # it may have left without reading what was still to be sent
            running.requests.close()
        try:
            exit_code = running.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            running.process.kill()
            exit_code = running.process.wait()
        running.answers.close()
        return exit_code


def _not_started(reason: str) -> PhotoProcessError:
    logger.error("photo_process_not_started", reason=reason)
    return PhotoProcessError()
