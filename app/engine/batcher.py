"""Zero-wait batching: one thread owns one runtime, and whenever it is free it takes what is queued.

Owns admission (bounded queue, predicted deadline), the queue, the thread, and the fate of every admitted item:
answered, failed alone, or dropped because nobody waits for it any more. Knows nothing of any runtime library, of photos
and titles, or of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

import structlog

from app.engine.batch_plan import BatchPlan
from app.engine.batch_run import Entry, ReadItem, read_batch, run_batch
from app.engine.drain_rate import DrainRate
from app.engine.errors import (
    DeadlineExceededError,
    ItemError,
    NotReadyError,
    OverloadedError,
    RequestError,
)
from app.engine.priority import give_way
from app.engine.queue_limit import QueueLimit
from app.engine.runtimes.base import Runtime
from app.engine.submission import ItemOutputs, ItemRow, Submission, deliver_all, out_of_time
from app.metrics import BATCH_SIZE, MODEL_DURATION_SECONDS, QUEUE_DEPTH, QUEUE_DURATION_SECONDS, SHED_ITEMS, record

logger = structlog.get_logger(__name__)

_AT_LIMIT = "The service is at its limit; try again later."
_CLOSING = "The service is shutting down; send the request again."
_DEAD = "The model's worker has stopped; the service needs a restart."


class Batcher:
    """`admit` on the event loop, then `put`, `put_unread` or `fail` every item from any thread, then await the submission."""

    def __init__(
        self, runtime: Runtime, plan: BatchPlan, *, model: str, max_queue_items: int, overload_queue_s: float = 0.04
    ) -> None:
        self._runtime = runtime
        self._plan = plan
        self._max_queue_items = max_queue_items
        # Two batches at least, so that the runtime never waits for the next while somebody is turned away.
        self._limit = QueueLimit(max_items=max_queue_items, least_items=2 * plan.max_items, short_s=overload_queue_s)
        self._queue: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._pending_items = 0
        self._fetching_items = 0
        """Those of them that wait for their photo: they fill the queue, but are no work that others wait for."""
        self._drain = DrainRate(plan.seconds_per_item)
        self._closing = self._stopped = self._is_running = False
        self._model = model
        self._queue_seconds = QUEUE_DURATION_SECONDS.labels(model)
        self._model_seconds = MODEL_DURATION_SECONDS.labels(model)
        self._batch_items = BATCH_SIZE.labels(model)
        # Up and down by what comes and goes: two versions of a model share the gauge.
        self._queue_depth = QUEUE_DEPTH.labels(model)
        self._thread = threading.Thread(target=self._own_runtime, name=f"runtime-{model}", daemon=True)
        self._thread.start()

    @property
    def pending_items(self) -> int:
        """Items admitted and not settled: being prepared, queued or in the runtime."""
        return self._pending_items

    @property
    def is_overloaded(self) -> bool:
        """See `QueueLimit`."""
        return self._limit.is_overloaded

    def is_short(self) -> bool:
        """Whether one more item would find the queue short: for work that can wait."""
        return not self._limit.is_long(self._pending_items - self._fetching_items + 1, self._drain.seconds_per_item)

    def is_alive(self) -> bool:
        return not self._stopped

    def admit(self, items: int, *, timeout_s: float | None, fetching: int = 0) -> Submission:
        """Take on `items` items, at once or not at all. Call on the event loop that will wait. For each of
        the `fetching` among them, a call of `photo_came` will follow.

        Raises:
            NotReadyError: closing, or the thread has died.
            RequestError: more items than the queue could ever hold.
            OverloadedError: the queue is full, or so long that `timeout_s` would pass.
            DeadlineExceededError: `timeout_s` is too short for an idle service, too.
        """
        with self._changed:
            if self._closing or not self.is_alive():
                raise self._not_ready()
            if items > self._max_queue_items:
                raise RequestError(f"Send at most {self._max_queue_items} items at a time.", field="items")
            # Items that wait for their photo are no work that others wait for.
            queued, pace_s = self._pending_items - self._fetching_items, self._drain.seconds_per_item
            wait_s = queued * pace_s
            has_room = self._limit.admits(items, queued=queued, seconds_per_item=pace_s, now_s=time.monotonic())
            if not has_room or self._pending_items + items > self._max_queue_items:
                raise self._shed(items, _AT_LIMIT, wait_s)
            if timeout_s is not None:
                idle_s = self._plan.seconds_for(items)
                if timeout_s < idle_s:
                    SHED_ITEMS.labels(self._model, "deadline_exceeded").inc(items)
                    raise DeadlineExceededError(f"These items need at least {math.ceil(idle_s * 1000)} ms; allow more time.")
                if timeout_s < wait_s + idle_s:
                    raise self._shed(items, "The queue is longer than the request's time; try again later.", wait_s)
            submission = Submission(items, deadline=None if timeout_s is None else time.monotonic() + timeout_s)
            self._pending_items += items
            self._fetching_items += fetching
        return submission

    def photo_came(self) -> None:
        """One item no longer waits for its photo, whether that came or not. From any thread."""
        with self._changed:
            self._fetching_items -= 1

    def overload(self) -> OverloadedError | None:
        """What `admit` would refuse one item with for the queue's length. The question counts as an item offered."""
        with self._changed:
            queued, pace_s = self._pending_items - self._fetching_items, self._drain.seconds_per_item
            if self._limit.lets_in(queued=queued, seconds_per_item=pace_s, now_s=time.monotonic()):
                return None  # and `admit` will count it
        return OverloadedError(_AT_LIMIT, retry_after_s=math.ceil(queued * pace_s))

    def put(self, submission: Submission, index: int, row: ItemRow) -> None:
        """Queue an item that is ready. From any thread."""
        self._put(submission, (index,), row)

    def put_unread(self, submission: Submission, indices: Sequence[int], read: ReadItem) -> None:
        """Queue items that the runtime's thread will read once it takes them. From any thread."""
        self._put(submission, indices, read)

    def _put(self, submission: Submission, indices: Sequence[int], source: ItemRow | ReadItem) -> None:
        now = time.monotonic()
        with self._changed:
            if self.is_alive():
                self._queue.extend(Entry(submission, index, source, now) for index in indices)
                record(self._queue_depth, len(indices))
                self._changed.notify()
                return
            submission.error = submission.error or NotReadyError(_DEAD)
        self._finish([(submission, index, None) for index in indices])

    def answer_here(self, submission: Submission, read: ReadItem) -> bool:
        """Answer the one item of an admitted submission in this thread, unless the runtime has something to do: False then, and
        nothing was done."""
        with self._changed:
            if self._queue or self._is_running or not self.is_alive():
                return False
            self._is_running = True
        self._answer([Entry(submission, 0, read, time.monotonic())])
        return True

    def fail(self, submission: Submission, index: int, error: ItemError) -> None:
        """Settle an item that cannot go to the runtime. From any thread."""
        self._finish([(submission, index, error)])

    def drop(self, submission: Submission, index: int) -> None:
        """Settle an item that nobody waits for (`Submission.is_unwanted`). From any thread."""
        self._drop([(submission, index)])

    async def close(self, *, grace_s: float) -> None:
        """Refuse new items, answer those admitted for up to `grace_s` seconds, fail the rest, end the thread."""
        with self._changed:
            self._closing = True
        give_up_at = time.monotonic() + grace_s
        while self._pending_items and self.is_alive() and time.monotonic() < give_up_at:
            await asyncio.sleep(0.01)
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    # --- admission -------------------------------------------------------------------------------------------------

    def _not_ready(self) -> NotReadyError:
        return NotReadyError(_CLOSING if self._closing else _DEAD)

    def _shed(self, items: int, detail: str, wait_s: float) -> OverloadedError:
        SHED_ITEMS.labels(self._model, "overloaded").inc(items)
        return OverloadedError(detail, retry_after_s=math.ceil(wait_s))

    # --- the thread ------------------------------------------------------------------------------------------------

    def _own_runtime(self) -> None:
        try:
            give_way()
            while batch := self._take():
                self._answer(batch)
                del batch  # the photos that it was read from are not kept until the next one comes
        except BaseException as error:  # the end of this thread, whatever it is; the type alone holds no content
            logger.critical("runtime_thread_died", model=self._model, error=type(error).__name__)
        finally:
            # Nobody may wait for ever, neither after closing nor after a death.
            with self._changed:
                self._stopped = True
                left = list(self._queue)
                self._queue.clear()
                record(self._queue_depth, -len(left))
            for entry in left:
                entry.submission.error = self._not_ready()
            self._finish((entry.submission, entry.index, None) for entry in left)

    def _take(self) -> list[Entry]:
        """Wait for items and take as many as the plan says; an empty list when stopped."""
        while True:
            dropped: list[Entry] = []
            live: list[Entry] = []
            with self._changed:
                while (self._is_running or not self._queue) and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return []
                while self._queue and len(live) < self._plan.max_items:
                    entry = self._queue.popleft()
                    (dropped if entry.submission.is_unwanted() else live).append(entry)
                count = self._plan.take[len(live)]
                self._is_running = count > 0
                self._queue.extendleft(reversed(live[count:]))
                record(self._queue_depth, -len(dropped) - min(count, len(live)))
            if dropped:
                self._drop([(entry.submission, entry.index) for entry in dropped])
            if live:
                return live[:count]

    def _rest(self) -> None:
        """The runtime is free again."""
        with self._changed:
            self._is_running = False
            self._changed.notify()

    def _drop(self, items: list[tuple[Submission, int]]) -> None:
        for submission, _ in items:
            if submission.abandoned is None:
                submission.error = submission.error or out_of_time()
            SHED_ITEMS.labels(self._model, submission.abandoned or "deadline_exceeded").inc()
        self._finish((submission, index, None) for submission, index in items)

    def _answer(self, batch: list[Entry]) -> None:
        taken = time.monotonic()
        held = list(batch)
        try:
            rows, failed = read_batch(held)
            started = time.monotonic()
            outcomes = run_batch(self._runtime, rows)
        except BaseException:
            for entry in held:
                entry.submission.error = NotReadyError(_DEAD)
            self._rest()
            self._finish((entry.submission, entry.index, None) for entry in held)
            raise
        ended = time.monotonic()
        if rows:
            record(self._batch_items, len(rows))
            record(self._model_seconds, ended - started)
        model_ms = (ended - started) * 1000
        for entry in held:
            queue_s = taken - entry.ready_at
            record(self._queue_seconds, queue_s)
            timing = entry.submission.timing
            timing.queue_ms = max(timing.queue_ms, queue_s * 1000)
            timing.model_ms = max(timing.model_ms, model_ms)
        if held:
            has_more = self._pending_items - len(held) > self._fetching_items
            self._drain.learn(len(held), ended_s=ended, has_more=has_more)
        # Before anybody is woken: who asks again at once finds the runtime free.
        self._rest()
        answered = iter(outcomes)
        self._finish(
            (entry.submission, entry.index, failed[position] if position in failed else next(answered))
            for position, entry in enumerate(held)
        )

    # --- settling --------------------------------------------------------------------------------------------------

    def _finish(self, settled: Iterable[tuple[Submission, int, ItemOutputs | ItemError | None]]) -> None:
        """Record outcomes and wake each event loop once, for all submissions that are now complete."""
        complete: dict[asyncio.AbstractEventLoop, list[Submission]] = {}
        with self._changed:
            for submission, index, outcome in settled:
                if not submission.settle(index, outcome):
                    # A defect of ours, which must not end the runtime's thread.
                    logger.error("item_settled_twice", model=self._model)
                    continue
                self._pending_items -= 1
                self._limit.answer(1)
                if submission.unsettled == 0:
                    complete.setdefault(submission.loop, []).append(submission)
        for loop, submissions in complete.items():
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there
                loop.call_soon_threadsafe(deliver_all, submissions)
