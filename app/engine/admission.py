"""Whether a model takes on more items: its queue is bounded, and no wait is begun that will not end in time.

Owns the count of the items taken on, the prediction of waits, and what a refusal says. Refuses to know the queue itself and
threads: its batcher holds a lock around every call.
"""

from __future__ import annotations

import math
import time

from app.engine.batch_plan import BatchPlan
from app.engine.drain_rate import DrainRate
from app.engine.errors import DeadlineExceededError, OverloadedError, RequestError
from app.engine.queue_limit import QueueLimit
from app.metrics import SHED_ITEMS

_AT_LIMIT = "The service is at its limit; try again later."


class Admission:
    """`pending_items`: taken on and not settled, being prepared, queued or in the runtime. `fetching_items`: those of them that
    wait for their photo: they fill the queue, but are no work that others wait for."""

    def __init__(self, plan: BatchPlan, *, model: str, max_queue_items: int, overload_queue_s: float) -> None:
        self._plan = plan
        self._model = model
        self._max_queue_items = max_queue_items
        # Two batches at least, so that the runtime never waits for the next while somebody is turned away.
        self._limit = QueueLimit(max_items=max_queue_items, least_items=2 * plan.max_items, short_s=overload_queue_s)
        self._drain = DrainRate(plan.seconds_per_item)
        self.pending_items = self.fetching_items = 0

    @property
    def is_overloaded(self) -> bool:
        """See `QueueLimit`."""
        return self._limit.is_overloaded

    def is_short(self) -> bool:
        """Whether one more item would find the queue short."""
        return not self._limit.is_long(self._queued() + 1, self._drain.seconds_per_item)

    def admit(self, items: int, *, timeout_s: float | None, fetching: int) -> None:
        """Take on `items` items, at once or not at all.

        Raises RequestError, OverloadedError and DeadlineExceededError, as `Batcher.admit`.
        """
        if items > self._max_queue_items:
            raise RequestError(f"Send at most {self._max_queue_items} items at a time.", field="items")
        queued, pace_s = self._queued(), self._drain.seconds_per_item
        wait_s = queued * pace_s
        has_room = self._limit.admits(items, queued=queued, seconds_per_item=pace_s, now_s=time.monotonic())
        if not has_room or self.pending_items + items > self._max_queue_items:
            raise self._shed(items, _AT_LIMIT, wait_s)
        if timeout_s is not None:
            idle_s = self._plan.seconds_for(items)
            if timeout_s < idle_s:
                SHED_ITEMS.labels(self._model, "deadline_exceeded").inc(items)
                raise DeadlineExceededError(f"These items need at least {math.ceil(idle_s * 1000)} ms; allow more time.")
            if timeout_s < wait_s + idle_s:
                raise self._shed(items, "The queue is longer than the request's time; try again later.", wait_s)
        self.pending_items += items
        self.fetching_items += fetching

    def overload(self) -> OverloadedError | None:
        """What `admit` would refuse one item with for the queue's length. The question counts as an item offered."""
        queued, pace_s = self._queued(), self._drain.seconds_per_item
        if self._limit.lets_in(queued=queued, seconds_per_item=pace_s, now_s=time.monotonic()):
            return None  # and `admit` will count it
        return OverloadedError(_AT_LIMIT, retry_after_s=math.ceil(queued * pace_s))

    def settle(self) -> None:
        """One item is no longer pending."""
        self.pending_items -= 1
        self._limit.answer(1)

    def learn(self, items: int, *, ended_s: float) -> None:
        """A batch of `items` has ended at `ended_s` (`time.monotonic()`); they are still pending."""
        self._drain.learn(items, ended_s=ended_s, has_more=self._queued() > items)

    def _queued(self) -> int:
        return self.pending_items - self.fetching_items

    def _shed(self, items: int, detail: str, wait_s: float) -> OverloadedError:
        SHED_ITEMS.labels(self._model, "overloaded").inc(items)
        return OverloadedError(detail, retry_after_s=math.ceil(wait_s))
