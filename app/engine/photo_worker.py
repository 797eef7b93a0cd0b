"""The program of the process that decodes large photos: `python -m app.engine.photo_worker SECONDS BYTES IDLE_SECONDS`.

Owns the limits that it puts on itself (time, memory, no files) and its side of the pipe: a request is `REQUEST` and the
encoded photo on standard input, an answer is `ANSWER` and the pixels on standard output. Refuses to know items, models
and settings; it logs nothing, since all that it could say is about a photo. It ends when its input does.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from app.engine.errors import ImageTooLargeError, ItemError, UndecodableImageError, UnsupportedImageTypeError
from app.engine.images import decode_photo

REQUEST = struct.Struct("<QIIQ")
"""Bytes of the photo; height and width to decode to; most pixels of the photo."""
ANSWER = struct.Struct("<BQ")
"""0 or the place in `ERRORS` plus 1; bytes that follow: of the pixels, or of the error's message."""
ERRORS: tuple[type[ItemError], ...] = (UnsupportedImageTypeError, ImageTooLargeError, UndecodableImageError)
READY = b"ready"

_SLACK_BYTES = 64 * 1024 * 1024
"""Beside what decoding takes: the photo as it came, and the interpreter's own growth."""


def main(arguments: list[str]) -> int:
    timeout_s, memory_bytes, idle_s = float(arguments[0]), int(arguments[1]), float(arguments[2])
    # The service stops this process by closing the pipe; a Ctrl-C in its terminal is the service's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    limit_resources(memory_bytes)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    while has_request(requests, idle_s) and (head := requests.read(REQUEST.size)):
        size, height, width, max_pixels = REQUEST.unpack(head)
        data = requests.read(size)
        limit_time(timeout_s)
        kind, answer = decode(data, height, width, max_pixels)
        limit_time(0)
        answers.write(ANSWER.pack(kind, len(answer)) + answer)
        answers.flush()
    return 0


def decode(data: bytes, height: int, width: int, max_pixels: int) -> tuple[int, bytes]:
    try:
        return 0, decode_photo(data, height=height, width=width, max_pixels=max_pixels).tobytes()
    except ItemError as error:
        return ERRORS.index(type(error)) + 1, error.detail.encode()


def has_request(requests: BinaryIO, idle_s: float) -> bool:
    """Wait for one. False after `idle_s` seconds without: the process ends, and its memory is free for others."""
    if sys.platform == "win32":  # only sockets can be waited for there
        return True
    ready, _, _ = select.select([requests], [], [], idle_s)
    return bool(ready)


def limit_time(seconds: float) -> None:
    """End the process after so many seconds of processor time, 0 for never: even in the middle of a C library, and with
    nobody left to see it.

    Processor time, so that a busy machine answers late and does not call a photo bad; the service's watch bounds the wait.
    """
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def limit_resources(memory_bytes: int) -> None:
    """No more than `memory_bytes` beside what is in use now, no file, no core dump; first to go when memory runs out."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    import resource  # not there on Windows

    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + memory_bytes + _SLACK_BYTES
        # Whoever started the service may have set a lower one, which nobody may raise.
        inherited = [bound for bound in resource.getrlimit(resource.RLIMIT_AS) if bound != resource.RLIM_INFINITY]
        limit = min([limit, *inherited])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # A dump would hold the photo, and so would any file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
