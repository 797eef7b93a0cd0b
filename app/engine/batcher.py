"""Zero-wait batching: one thread owns one runtime, and whenever it is free it takes what is queued.

Owns the queue, the thread, and the fate of every admitted item: answered, failed alone, or dropped because nobody waits for it
any more. Knows nothing of any runtime library, of photos and titles, or of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

import structlog

from app.engine.admission import Admission
from app.engine.batch_plan import BatchPlan
from app.engine.batch_run import Entry, ReadItem, are_of_one, read_entries, run_batch
from app.engine.errors import EngineError, ItemError, NotReadyError, OverloadedError
from app.engine.priority import end_turn, give_way
from app.engine.runtimes.base import Runtime
from app.engine.submission import ItemOutputs, ItemRow, Submission, deliver_all, out_of_time
from app.metrics import BATCH_SIZE, MODEL_DURATION_SECONDS, QUEUE_DEPTH, QUEUE_DURATION_SECONDS, SHED_ITEMS, record

logger = structlog.get_logger(__name__)

_CLOSING = "The service is shutting down; send the request again."
_DEAD = "The model's worker has stopped; the service needs a restart."


class Batcher:
    """`admit` on the event loop, then `put`, `put_unread` or `fail` every item from any thread, then await the submission."""

    def __init__(
        self, runtime: Runtime, plan: BatchPlan, *, model: str, max_queue_items: int, overload_queue_s: float = 0.04
    ) -> None:
        self._runtime = runtime
        self._plan = plan
        self._queue: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._admission = Admission(plan, model=model, max_queue_items=max_queue_items, overload_queue_s=overload_queue_s)
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
        return self._admission.pending_items

    @property
    def is_overloaded(self) -> bool:
        """See `QueueLimit`."""
        return self._admission.is_overloaded

    def is_short(self) -> bool:
        """Whether one more item would find the queue short: for work that can wait."""
        return self._admission.is_short()

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
            self._admission.admit(items, timeout_s=timeout_s, fetching=fetching)
        return Submission(items, deadline=None if timeout_s is None else time.monotonic() + timeout_s)

    def photo_came(self) -> None:
        """One item no longer waits for its photo, whether that came or not. From any thread."""
        with self._changed:
            self._admission.fetching_items -= 1

    def overload(self) -> OverloadedError | None:
        """What `admit` would refuse one item with for the queue's length. The question counts as an item offered."""
        with self._changed:
            return self._admission.overload()

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
        self._answer([Entry(submission, 0, read, time.monotonic())], joined=False)
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
        while self._admission.pending_items and self.is_alive() and time.monotonic() < give_up_at:
            await asyncio.sleep(0.01)
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _not_ready(self) -> NotReadyError:
        return NotReadyError(_CLOSING if self._closing else _DEAD)

    # --- the thread ------------------------------------------------------------------------------------------------

    def _own_runtime(self) -> None:
        try:
            give_way(in_long_turns=True)
            while batch := self._take():
                self._answer(batch, joined=True)
                del batch  # the photos that it was read from are not kept until the next one comes
                end_turn()  # now the event loop can write a batch of answers
        except BaseException as error:  # the end of this thread, whatever it is; the type alone holds no content
            logger.critical("runtime_thread_died", model=self._model, error=type(error).__name__)
        finally:
            # Nobody may wait for ever, neither after closing nor after a death.
            with self._changed:
                self._stopped = True
                left = list(self._queue)
                self._queue.clear()
                record(self._queue_depth, -len(left))
            self._fail_all(left, self._not_ready())

    def _take(self) -> list[Entry]:
        """Wait for items and take them, a full batch at most; an empty list when stopped."""
        while True:
            with self._changed:
                while (self._is_running or not self._queue) and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return []
                self._is_running = True
            if taken := self._take_queued(self._plan.max_items, most_of_one=self._plan.max_lot_items):
                return taken
            self._rest()

    def _take_queued(self, most: int, *, most_of_one: int = 0) -> list[Entry]:
        """Up to `most` of the items in the queue that are still wanted; up to `most_of_one` where all are of one request."""
        taken: list[Entry] = []
        dropped: list[Entry] = []
        with self._changed:
            now = time.monotonic()
            while self._queue and (len(taken) < most or (len(taken) < most_of_one and are_of_one([*taken, self._queue[0]]))):
                entry = self._queue.popleft()
                (dropped if entry.submission.is_unwanted() else taken).append(entry)
                entry.queue_s += now - entry.queued_at
            record(self._queue_depth, -len(dropped) - len(taken))
        if dropped:
            self._drop([(entry.submission, entry.index) for entry in dropped])
        return taken

    def _put_back(self, entries: Sequence[Entry]) -> None:
        """To the front of the queue."""
        with self._changed:
            now = time.monotonic()
            for entry in entries:
                entry.queued_at = now
            self._queue.extendleft(reversed(entries))
            record(self._queue_depth, len(entries))

    def _rest(self) -> None:
        """The runtime is free again."""
        with self._changed:
            self._is_running = False
            if self._queue:  # else its thread would wake for nothing, and take the interpreter from who answers here
                self._changed.notify()

    def _may_wait(self, entries: Iterable[Entry]) -> bool:
        """Whether none of them would be late for another batch's time, reading about as long as running."""
        ready_at = time.monotonic() + 2 * self._plan.seconds[self._plan.max_items]
        return all(entry.submission.deadline is None or entry.submission.deadline > ready_at for entry in entries)

    def _answer(self, batch: Sequence[Entry], *, joined: bool) -> None:
        """`joined`: by what comes while these are read, up to a full batch. What the plan leaves for the next call is put back
        with its row, and may be joined by others then."""
        held = batch
        try:
            ready, failed = read_entries(batch)
            # Those that fail, or are read elsewhere, fill no batch. However many come, the others do not wait for all of them.
            left = 2 * self._plan.max_items - len(batch)
            while joined and ready and self._may_wait(ready):
                if not (more := self._take_queued(min(self._plan.max_items - len(ready), left))):
                    break
                left -= len(more)
                held = [*ready, *(entry for entry, _ in failed), *more]
                found, unreadable = read_entries(more)
                ready, failed = ready + found, failed + unreadable
            count = self._plan.take[len(ready)]
            if ready[count:]:
                self._put_back(ready[count:])
            held = [*ready[:count], *(entry for entry, _ in failed)]
            started = time.monotonic()
            outcomes = run_batch(self._runtime, [entry.row() for entry in ready[:count]])
        except BaseException:
            self._rest()
            self._fail_all([entry for entry in held if not entry.is_elsewhere], NotReadyError(_DEAD))
            raise
        ended = time.monotonic()
        if count:
            record(self._batch_items, count)
            record(self._model_seconds, ended - started)
        for entry in held:
            record(self._queue_seconds, entry.queue_s)
            timing = entry.submission.timing
            timing.queue_ms = max(timing.queue_ms, entry.queue_s * 1000)
            timing.model_ms = max(timing.model_ms, (ended - started) * 1000)
        if held:
            self._admission.learn(len(held), ended_s=ended)
        # Before anybody is woken: who asks again at once finds the runtime free.
        self._rest()
        reasons = [reason for _, reason in failed]
        self._finish(
            (entry.submission, entry.index, outcome) for entry, outcome in zip(held, [*outcomes, *reasons], strict=True)
        )

    # --- settling --------------------------------------------------------------------------------------------------

    def _drop(self, items: list[tuple[Submission, int]]) -> None:
        for submission, _ in items:
            if submission.abandoned is None:
                submission.error = submission.error or out_of_time()
            SHED_ITEMS.labels(self._model, submission.abandoned or "deadline_exceeded").inc()
        self._finish((submission, index, None) for submission, index in items)

    def _fail_all(self, entries: Sequence[Entry], error: EngineError) -> None:
        for entry in entries:
            entry.submission.error = error
        self._finish((entry.submission, entry.index, None) for entry in entries)

    def _finish(self, settled: Iterable[tuple[Submission, int, ItemOutputs | ItemError | None]]) -> None:
        """Record outcomes and wake each event loop once, for all submissions that are now complete."""
        complete: dict[asyncio.AbstractEventLoop, list[Submission]] = {}
        with self._changed:
            for submission, index, outcome in settled:
                if not submission.settle(index, outcome):
                    # A defect of ours, which must not end the runtime's thread.
                    logger.error("item_settled_twice", model=self._model)
                    continue
                self._admission.settle()
                if submission.unsettled == 0:
                    complete.setdefault(submission.loop, []).append(submission)
        here = asyncio._get_running_loop()
        for loop, submissions in complete.items():
            if loop is here:
                deliver_all(submissions)
                continue
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there
                loop.call_soon_threadsafe(deliver_all, submissions)
