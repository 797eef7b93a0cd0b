"""The lines of a body that is still being sent.

Owns where a line ends, how long one may be, and what the lines that are kept count for in the worker's budget for bodies.
Refuses to know what is in them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import Receive

from app.api.body import receive_chunk
from app.body_budget import BodyLease
from app.errors import ProblemError

_SLOW_LINE = ProblemError("overloaded", "The line came too slowly while others had no room for theirs; send it again.")
_BLANK_LINES = re.compile(rb"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Line:
    """`content`: without its end; a problem in the place of a line over the limit, of which nothing is kept. `held_bytes`: its
    share of the budget, for its receiver to give back."""

    content: bytes | ProblemError
    held_bytes: int


async def read_lines(receive: Receive, lease: BodyLease, *, max_line_bytes: int, stall_timeout_s: float) -> AsyncIterator[Line]:
    """The body's lines without blank ones. Where the budget has no room, nothing more is received until it has. A line that
    comes so slowly that others have no room meanwhile fails alone.

    Raises `ClientDisconnect`, `ProblemError` `body_stalled` and, when there is no room for `stall_timeout_s`, `overloaded`.
    """
    too_long = ProblemError("body_too_large", f"A line may have at most {max_line_bytes:,} bytes; send a smaller photo.")
    buffer = bytearray()
    is_skipping = has_given_way = False
    more = True

    def skip() -> None:
        nonlocal is_skipping
        is_skipping = True
        lease.give(len(buffer))
        buffer.clear()
        lease.end_line()

    def give_way() -> None:
        nonlocal has_given_way
        has_given_way = True
        skip()

    async def take(size: int) -> None:
        if size:
            await lease.take_in_time(size, reserve_bytes=max_line_bytes, timeout_s=stall_timeout_s)

    try:
        while more:
            lease.on_in_the_way = give_way
            chunk, more = await receive_chunk(receive, stall_timeout_s=stall_timeout_s)
            lease.on_in_the_way = None
            if has_given_way:
                has_given_way = False
                yield Line(_SLOW_LINE, 0)
            # A body of line ends alone would be a million parts a megabyte, each of them nothing.
            *complete, rest = _BLANK_LINES.sub(b"\n", chunk).split(b"\n")
            for part in complete:
                if is_skipping:
                    is_skipping = False
                    continue
                if len(buffer) + len(part) > max_line_bytes:
                    skip()
                    is_skipping = False
                    yield Line(too_long, 0)
                    continue
                await take(len(part))
                buffer += part
                line = bytes(buffer)
                buffer.clear()
                lease.end_line()
                if line.strip():
                    yield Line(line, len(line))
                else:
                    lease.give(len(line))
            if is_skipping:
                continue
            if len(buffer) + len(rest) > max_line_bytes:
                skip()
                yield Line(too_long, 0)
                continue
            await take(len(rest))
            buffer += rest
        if buffer.strip():
            line = bytes(buffer)
            buffer.clear()
            lease.end_line()
            yield Line(line, len(line))
    finally:
        # Where the body breaks off, what has come of a line is not kept until all results before it were read.
        lease.on_in_the_way = None
        skip()
