"""One request's items on their way through a batcher.

Owns who waits for them, what each came to, and the request's deadline and timings. Items are settled from any thread,
each exactly once; the waiting event loop is woken once, when the last one is. Refuses to know what is in a row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from app.engine.deadlines import deadlines_of
from app.engine.errors import DeadlineExceededError, EngineError, ItemError
from app.engine.items import Modality, Timing

Abandonment = Literal["cancelled", "deadline_exceeded"]


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One item ready for the runtime: its inputs, one row each without the batch axis, and what they came from."""

    values: Mapping[str, NDArray[Any]]
    inputs: tuple[Modality, ...]


@dataclass(slots=True)
class BatchOutputs:
    """What one runtime call said: B rows per output, and what each item came from. `scores` is for whoever reads the answers,
    to keep what it works out for the whole batch when it meets the first of its items."""

    values: Mapping[str, NDArray[Any]]
    inputs: Sequence[tuple[Modality, ...]]
    scores: Any = None


@dataclass(frozen=True, slots=True)
class ItemOutputs:
    """What the runtime said of one item: its `position` in the outputs of its batch."""

    batch: BatchOutputs
    position: int

    @property
    def inputs(self) -> tuple[Modality, ...]:
        return self.batch.inputs[self.position]


class Submission:
    """Made by `Batcher.admit` on the event loop that will wait for it."""

    __slots__ = ("_future", "_is_settled", "abandoned", "deadline", "error", "loop", "outcomes", "timing", "unsettled")

    def __init__(self, items: int, *, deadline: float | None) -> None:
        """`deadline` in seconds of `time.monotonic()`."""
        self.loop = asyncio.get_running_loop()
        self.deadline = deadline
        self.outcomes: list[ItemOutputs | ItemError | None] = [None] * items
        self.timing = Timing()
        self.unsettled = items
        """Items without an outcome; guarded by the batcher's lock."""
        # Apart from the outcomes, since an item that nobody waits for is settled without one.
        self._is_settled = bytearray(items)
        self.abandoned: Abandonment | None = None
        """Why nobody waits any more, if so: whoever holds an item may drop it."""
        self.error: EngineError | None = None
        """Fails the request as a whole."""
        self._future: asyncio.Future[None] = self.loop.create_future()

    def is_unwanted(self) -> bool:
        """Whether nobody would read the answer: abandoned, failed as a whole, or out of time."""
        if self.abandoned is not None or self.error is not None:
            return True
        return self.deadline is not None and time.monotonic() >= self.deadline

    def settle(self, index: int, outcome: ItemOutputs | ItemError | None) -> bool:
        """Under the batcher's lock. False, and nothing is changed, where the item has been settled already: it would
        count for one of its neighbours, which would then be missing."""
        if self._is_settled[index]:
            return False
        self._is_settled[index] = True
        self.outcomes[index] = outcome
        self.unsettled -= 1
        return True

    async def wait(self) -> list[ItemOutputs | ItemError]:
        """Outcomes in the order of the items.

        Raises DeadlineExceededError when the deadline passes first, or the error that failed the request. When the
        waiter is cancelled or runs out of time, its remaining items are dropped.
        """
        deadlines = deadlines_of(self.loop)
        if not self._future.done():
            deadlines.watch(self)
        try:
            await self._future
        except asyncio.CancelledError:
            self.abandoned = "cancelled"
            raise
        finally:
            deadlines.forget(self)
        return [outcome for outcome in self.outcomes if outcome is not None]

    def expire(self) -> None:
        """Its deadline has passed. Runs on the event loop."""
        if not self._future.done():
            self.abandoned = "deadline_exceeded"
            self._future.set_exception(out_of_time())

    def deliver(self) -> None:
        """Wake the waiter. Runs on the event loop."""
        if self._future.done():
            return
        if self.error is not None:
            self._future.set_exception(self.error)
        else:
            self._future.set_result(None)


def out_of_time() -> DeadlineExceededError:
    return DeadlineExceededError("The request's time ran out before its answer was ready.")


def deliver_all(submissions: Iterable[Submission]) -> None:
    """On the event loop that waits for them."""
    for submission in submissions:
        submission.deliver()
