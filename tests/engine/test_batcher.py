import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from app.engine.batch_plan import plan_batches
from app.engine.batcher import Batcher
from app.engine.errors import DeadlineExceededError, ItemError, ItemFailedError, NotReadyError, OverloadedError, RequestError
from app.engine.submission import ItemOutputs, ItemRow, Submission
from app.metrics import SHED_ITEMS
from tests.engine.conftest import DoublingRuntime, row_of

pytestmark = pytest.mark.anyio

# 4 items cost what 2 single ones do; a full batch is 4.
PLAN = plan_batches({1: 0.001, 2: 0.0015, 4: 0.002})
# Of three items two go together, and one is left.
SPLIT = plan_batches({1: 0.0005, 2: 0.001, 4: 0.0017})


@pytest.fixture
async def batcher(doubling: DoublingRuntime) -> AsyncIterator[Batcher]:
    batcher = Batcher(doubling, PLAN, model="doubling", max_queue_items=8)
    yield batcher
    doubling.gate.set()
    await batcher.close(grace_s=1.0)


def send(batcher: Batcher, numbers: Sequence[int], timeout_s: float | None = None) -> Submission:
    submission = batcher.admit(len(numbers), timeout_s=timeout_s)
    for index, number in enumerate(numbers):
        batcher.put(submission, index, ItemRow(row_of(number), ("image",)))
    return submission


def doubles(outcomes: Sequence[ItemOutputs | ItemError]) -> list[float]:
    return [float(outcome.batch.values["double"][outcome.position]) for outcome in outcomes if isinstance(outcome, ItemOutputs)]


async def occupy(batcher: Batcher, doubling: DoublingRuntime) -> asyncio.Task[list[ItemOutputs | ItemError]]:
    """Hold the runtime in a call with the number 100, so that what follows queues up."""
    doubling.gate.clear()
    doubling.entered.clear()
    task = asyncio.create_task(send(batcher, [100]).wait())
    assert await asyncio.to_thread(doubling.entered.wait, 5)
    return task


def shed(reason: str) -> float:
    return float(SHED_ITEMS.labels("doubling", reason)._value.get())


async def test_a_lone_item_runs_at_once_and_alone(batcher: Batcher, doubling: DoublingRuntime) -> None:
    assert doubles(await send(batcher, [7]).wait()) == [14.0]
    assert doubling.batches == [[7]]


async def test_what_queues_while_the_runtime_is_busy_goes_together_in_order(
    batcher: Batcher, doubling: DoublingRuntime
) -> None:
    first = await occupy(batcher, doubling)
    waiting = [asyncio.create_task(send(batcher, [number]).wait()) for number in (1, 2, 3, 4, 5)]
    await asyncio.sleep(0)
    doubling.gate.set()
    answers = await asyncio.gather(first, *waiting)
    assert [doubles(answer) for answer in answers] == [[200.0], [2.0], [4.0], [6.0], [8.0], [10.0]]
    assert doubling.batches == [[100], [1, 2, 3, 4], [5]]


async def test_an_item_may_be_answered_in_the_callers_thread_while_the_runtime_rests(
    batcher: Batcher, doubling: DoublingRuntime
) -> None:
    readers: list[threading.Thread] = []

    def read(index: int) -> ItemRow:
        readers.append(threading.current_thread())
        return ItemRow(row_of(7 + index), ("image",))

    submission = batcher.admit(1, timeout_s=None)
    assert batcher.answer_here(submission, read)
    assert doubles(await submission.wait()) == [14.0]
    assert readers == [threading.current_thread()]
    assert batcher.pending_items == 0
    assert doubles(await send(batcher, [3]).wait()) == [6.0], "and the runtime's thread goes on"


async def test_nothing_is_answered_in_the_callers_thread_while_the_runtime_is_busy(
    batcher: Batcher, doubling: DoublingRuntime
) -> None:
    first = await occupy(batcher, doubling)
    submission = batcher.admit(1, timeout_s=None)

    def read(index: int) -> ItemRow:
        raise AssertionError

    assert not batcher.answer_here(submission, read)
    batcher.put(submission, 0, ItemRow(row_of(1), ("image",)))
    doubling.gate.set()
    assert doubles(await first) + doubles(await submission.wait()) == [200.0, 2.0]


async def test_the_runtimes_thread_waits_for_who_answers_in_its_place(batcher: Batcher, doubling: DoublingRuntime) -> None:
    doubling.gate.clear()
    doubling.entered.clear()
    ours = batcher.admit(1, timeout_s=None)
    here = asyncio.create_task(asyncio.to_thread(batcher.answer_here, ours, lambda _: ItemRow(row_of(1), ("image",))))
    assert await asyncio.to_thread(doubling.entered.wait, 5)
    theirs = send(batcher, [2])
    await asyncio.sleep(0.05)
    assert doubling.batches == [[1]]
    doubling.gate.set()
    assert await here
    assert doubles(await ours.wait()) + doubles(await theirs.wait()) == [2.0, 4.0]


async def test_an_item_that_cannot_be_read_here_fails_alone(batcher: Batcher) -> None:
    submission = batcher.admit(1, timeout_s=None)
    assert batcher.answer_here(submission, lambda _: ItemFailedError("It could not be read."))
    (outcome,) = await submission.wait()
    assert isinstance(outcome, ItemFailedError)


async def test_a_stopped_batcher_answers_nothing_here(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, PLAN, model="doubling", max_queue_items=8)
    submission = batcher.admit(1, timeout_s=None)
    await batcher.close(grace_s=0.0)
    assert not batcher.answer_here(submission, lambda _: ItemRow(row_of(1), ("image",)))


async def test_an_item_is_settled_once_whoever_settles_it_again(batcher: Batcher, doubling: DoublingRuntime) -> None:
    first = await occupy(batcher, doubling)
    submission = send(batcher, [1, 2])
    batcher.fail(submission, 0, ItemFailedError("The first to settle it."))
    with capture_logs() as logs:
        batcher.fail(submission, 0, ItemFailedError("Too late."))
        assert batcher.pending_items == 2
        doubling.gate.set()
        await first
        failed, answered = await submission.wait()
    assert isinstance(failed, ItemFailedError)
    assert failed.detail == "The first to settle it."
    assert doubles([answered]) == [4.0]
    assert (submission.unsettled, batcher.pending_items) == (0, 0)
    assert [entry["event"] for entry in logs] == ["item_settled_twice"] * 2


class Reading:
    """Reads numbers in the runtime's thread, and has others come while it reads: `arrivals` by number."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.arrivals: dict[int, list[tuple[Submission, list[int]]]] = {}
        self.read: list[int] = []

    def start(self, submission: Submission, numbers: Sequence[int]) -> None:
        def read(index: int) -> ItemRow:
            self.read.append(numbers[index])
            for late, others in self.arrivals.get(numbers[index], []):
                self.start(late, others)
            return ItemRow(row_of(numbers[index]), ("image",))

        self.batcher.put_unread(submission, range(len(numbers)), read)


async def test_who_comes_while_a_batch_is_read_joins_it(batcher: Batcher, doubling: DoublingRuntime) -> None:
    reading = Reading(batcher)
    first, second, third = (batcher.admit(count, timeout_s=None) for count in (1, 2, 2))
    reading.arrivals = {1: [(second, [2, 3])], 3: [(third, [4, 5])]}
    reading.start(first, [1])
    outcomes = [doubles(await submission.wait()) for submission in (first, second, third)]
    assert outcomes == [[2.0], [4.0, 6.0], [8.0, 10.0]]
    assert doubling.batches == [[1, 2, 3, 4], [5]]  # four are a full batch
    assert reading.read == [1, 2, 3, 4, 5]


async def test_who_is_read_elsewhere_is_left_to_that_thread_where_the_runtimes_dies(batcher: Batcher) -> None:
    submission = batcher.admit(2, timeout_s=None)

    def read(index: int) -> None:
        if index:
            raise SystemExit

    with capture_logs() as logs:
        batcher.put_unread(submission, [0, 1], read)
        while batcher.is_alive():
            await asyncio.sleep(0.001)
        batcher.put(submission, 0, ItemRow(row_of(1), ("image",)))
        with pytest.raises(NotReadyError):
            await submission.wait()
    assert [entry["event"] for entry in logs] == ["runtime_thread_died"]
    assert batcher.pending_items == 0


async def test_who_is_read_does_not_wait_for_any_number_that_fail(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, PLAN, model="doubling", max_queue_items=64)
    first, bad = batcher.admit(1, timeout_s=None), batcher.admit(40, timeout_s=None)
    failed: list[int] = []
    failed_before: list[int] = []
    doubling.on_batch = lambda numbers: failed_before.append(len(failed))

    def fail(index: int) -> ItemFailedError:
        failed.append(index)
        if index < 39:
            batcher.put_unread(bad, [index + 1], fail)
        return ItemFailedError("It could not be read.")

    def read(index: int) -> ItemRow:
        batcher.put_unread(bad, [0], fail)
        return ItemRow(row_of(1), ("image",))

    batcher.put_unread(first, [0], read)
    assert doubles(await first.wait()) == [2.0]
    await bad.wait()
    assert failed_before == [7]  # as many as two full batches, with the one that was read
    assert failed == [*range(40)]
    await batcher.close(grace_s=1.0)


async def test_nobody_joins_an_item_whose_time_is_short(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, plan_batches({1: 0.05, 4: 0.1}), model="doubling", max_queue_items=16)
    reading = Reading(batcher)
    short, long = batcher.admit(1, timeout_s=0.15), batcher.admit(1, timeout_s=30.0)
    late, later = batcher.admit(1, timeout_s=30.0), batcher.admit(1, timeout_s=30.0)
    reading.arrivals = {1: [(late, [2])], 3: [(later, [4])]}
    reading.start(short, [1])
    assert doubles(await short.wait()) == [2.0]
    assert doubles(await late.wait()) == [4.0]
    reading.start(long, [3])
    assert doubles(await long.wait()) == [6.0]
    assert doubles(await later.wait()) == [8.0]
    assert doubling.batches == [[1], [2], [3, 4]]
    await batcher.close(grace_s=1.0)


async def test_what_the_plan_leaves_over_is_read_once_and_goes_first(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, SPLIT, model="doubling", max_queue_items=16)
    reading = Reading(batcher)
    first, second = batcher.admit(3, timeout_s=None), batcher.admit(1, timeout_s=None)
    doubling.gate.clear()
    doubling.entered.clear()
    reading.start(first, [1, 2, 3])
    assert await asyncio.to_thread(doubling.entered.wait, 5)
    reading.start(second, [4])
    doubling.gate.set()
    assert doubles(await first.wait()) == [2.0, 4.0, 6.0]
    assert doubles(await second.wait()) == [8.0]
    assert doubling.batches == [[1, 2], [3, 4]]
    assert reading.read == [1, 2, 3, 4]
    await batcher.close(grace_s=1.0)


async def test_what_was_put_back_is_not_run_for_nobody(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, SPLIT, model="doubling", max_queue_items=16)
    reading = Reading(batcher)
    doubling.gate.clear()
    doubling.entered.clear()
    kept, gone = batcher.admit(2, timeout_s=None), batcher.admit(1, timeout_s=None)
    reading.arrivals = {2: [(gone, [3])]}
    reading.start(kept, [1, 2])
    assert await asyncio.to_thread(doubling.entered.wait, 5)
    waiting = asyncio.create_task(gone.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    doubling.gate.set()
    assert doubles(await kept.wait()) == [2.0, 4.0]
    await batcher.close(grace_s=1.0)
    assert doubling.batches == [[1, 2]]
    assert batcher.pending_items == 0


async def test_nobody_joins_what_is_answered_in_the_callers_thread(batcher: Batcher, doubling: DoublingRuntime) -> None:
    lone, late = batcher.admit(1, timeout_s=None), batcher.admit(1, timeout_s=None)

    def read(index: int) -> ItemRow:
        batcher.put(late, 0, ItemRow(row_of(2), ("image",)))
        return ItemRow(row_of(1), ("image",))

    assert batcher.answer_here(lone, read)
    assert doubles(await late.wait()) == [4.0]
    assert doubling.batches == [[1], [2]]


async def test_a_resting_runtime_holds_nothing_of_its_last_batch(batcher: Batcher) -> None:
    class Photos:
        """What the items are read from."""

        def read(self, index: int) -> ItemRow:
            return ItemRow(row_of(7), ("image",))

    photos = Photos()
    left = weakref.ref(photos)
    submission = batcher.admit(1, timeout_s=None)
    batcher.put_unread(submission, (0,), photos.read)
    del photos
    assert doubles(await submission.wait()) == [14.0]
    async with asyncio.timeout(5):
        while left() is not None:
            await asyncio.sleep(0.005)


async def test_a_request_larger_than_a_batch_is_answered_in_its_order(batcher: Batcher, doubling: DoublingRuntime) -> None:
    assert doubles(await send(batcher, [1, 2, 3, 4, 5, 6, 7]).wait()) == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]
    assert max(map(len, doubling.batches)) <= 4


async def test_timings_cover_the_wait_and_the_call(batcher: Batcher, doubling: DoublingRuntime) -> None:
    first = await occupy(batcher, doubling)
    second = send(batcher, [1])
    await asyncio.sleep(0.03)
    doubling.gate.set()
    await asyncio.gather(first, second.wait())
    assert second.timing.queue_ms >= 25
    assert 0 < second.timing.model_ms < 25


async def test_a_cancelled_caller_is_skipped_and_counted(batcher: Batcher, doubling: DoublingRuntime) -> None:
    before = shed("cancelled")
    first = await occupy(batcher, doubling)
    gone, stays = (asyncio.create_task(send(batcher, numbers).wait()) for numbers in ([1, 2], [3]))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    doubling.gate.set()
    await first
    assert doubles(await stays) == [6.0]
    assert doubling.batches == [[100], [3]]
    assert shed("cancelled") - before == 2
    assert batcher.pending_items == 0


async def test_a_full_queue_refuses_the_whole_request(batcher: Batcher, doubling: DoublingRuntime) -> None:
    first = await occupy(batcher, doubling)
    fits = send(batcher, [1, 2, 3, 4, 5])
    with pytest.raises(OverloadedError) as refusal:
        batcher.admit(3, timeout_s=None)
    assert refusal.value.retry_after_s >= 1
    doubling.gate.set()
    await asyncio.gather(first, fits.wait())
    assert doubles(await send(batcher, [1, 2, 3]).wait()) == [2.0, 4.0, 6.0]


async def test_a_queue_that_was_full_stays_short_until_nothing_is_refused(batcher: Batcher, doubling: DoublingRuntime) -> None:
    first = await occupy(batcher, doubling)
    filled = send(batcher, range(7))
    with pytest.raises(OverloadedError):
        batcher.admit(1, timeout_s=None)
    assert not batcher.is_overloaded  # by one refusal
    await asyncio.sleep(0.11)
    with pytest.raises(OverloadedError):
        batcher.admit(1, timeout_s=None)
    assert batcher.is_overloaded
    refusal = batcher.overload()
    assert refusal is not None
    assert refusal.retry_after_s >= 1
    doubling.gate.set()
    await asyncio.gather(first, filled.wait())
    assert batcher.overload() is None  # there is room again
    assert doubles(await send(batcher, [1]).wait()) == [2.0]


async def test_more_items_than_the_queue_holds_is_the_callers_mistake(batcher: Batcher) -> None:
    with pytest.raises(RequestError, match="at most 8 items"):
        batcher.admit(9, timeout_s=None)


async def test_a_predicted_miss_is_refused_at_once(batcher: Batcher, doubling: DoublingRuntime) -> None:
    first = await occupy(batcher, doubling)
    waiting = send(batcher, [1, 2, 3, 4, 5, 6])
    # 7 items wait, 0.5 ms each, and one needs 1 ms.
    with pytest.raises(OverloadedError, match="longer than the request's time"):
        batcher.admit(1, timeout_s=0.004)
    doubling.gate.set()
    await asyncio.gather(first, waiting.wait())


async def test_a_time_too_short_for_an_idle_service_is_not_called_overload(batcher: Batcher) -> None:
    with pytest.raises(DeadlineExceededError, match="need at least 1 ms"):
        batcher.admit(1, timeout_s=0.0005)


async def test_one_long_wait_does_not_look_like_a_slow_service(batcher: Batcher) -> None:
    for _ in range(2):
        batcher._admission._drain._last_batch_ended_s = time.monotonic() - 60
        batcher._admission._drain.learn(1, ended_s=time.monotonic(), has_more=True)
    assert batcher.admit(8, timeout_s=1.0).unsettled == 8


async def test_the_drain_rate_is_learnt_from_slow_batches(batcher: Batcher, doubling: DoublingRuntime) -> None:
    doubling.on_batch = lambda numbers: time.sleep(0.02)
    await send(batcher, list(range(8))).wait()
    await send(batcher, list(range(8))).wait()
    first = await occupy(batcher, doubling)
    # Warm-up's pace of 0.5 ms an item would say 1.5 ms; the measured one says more.
    with pytest.raises(OverloadedError):
        batcher.admit(1, timeout_s=0.0017)
    doubling.gate.set()
    await first


async def test_items_that_wait_for_their_photo_fill_the_queue_but_keep_nobody_waiting(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, plan_batches({1: 2.0}), model="doubling", max_queue_items=8)
    awaited = batcher.admit(7, timeout_s=None, fetching=7)
    # Seven items of work would take 14 s before this one.
    quick = batcher.admit(1, timeout_s=5.0)
    with pytest.raises(OverloadedError):
        batcher.admit(1, timeout_s=None)
    batcher.put(quick, 0, ItemRow(row_of(1), ("image",)))
    await quick.wait()
    for index in range(7):
        batcher.photo_came()
        batcher.put(awaited, index, ItemRow(row_of(index), ("image",)))
    assert doubles(await awaited.wait()) == [2.0 * index for index in range(7)]
    await batcher.close(grace_s=1.0)


async def test_a_slow_photo_host_does_not_look_like_a_slow_service(batcher: Batcher) -> None:
    awaited = batcher.admit(1, timeout_s=None, fetching=1)
    for _ in range(5):
        await send(batcher, [1]).wait()
        await asyncio.sleep(0.02)
    assert batcher._admission._drain.seconds_per_item == PLAN.seconds_per_item
    batcher.photo_came()
    batcher.put(awaited, 0, ItemRow(row_of(1), ("image",)))
    await awaited.wait()


async def test_an_item_that_expires_in_the_queue_never_reaches_the_runtime(batcher: Batcher, doubling: DoublingRuntime) -> None:
    before = shed("deadline_exceeded")
    first = await occupy(batcher, doubling)
    late = send(batcher, [1], timeout_s=0.02)
    with pytest.raises(DeadlineExceededError):
        await late.wait()
    doubling.gate.set()
    await first
    assert doubles(await send(batcher, [2]).wait()) == [4.0]
    assert doubling.batches == [[100], [2]]
    assert shed("deadline_exceeded") - before == 1


async def test_a_poison_item_fails_alone(batcher: Batcher, doubling: DoublingRuntime) -> None:
    def refuse_thirteen(numbers: list[int]) -> None:
        if 13 in numbers:
            raise ValueError("13")

    doubling.on_batch = refuse_thirteen
    first = await occupy(batcher, doubling)
    mixed, neighbour = send(batcher, [1, 13, 2]), send(batcher, [3])
    with capture_logs() as logged:
        doubling.gate.set()
        await first
        outcomes = await mixed.wait()
    assert isinstance(outcomes[1], ItemFailedError)
    assert outcomes[1].code == "internal_error"
    assert logged == [{"event": "item_not_answered", "error": "ValueError", "log_level": "error"}]
    assert doubles(outcomes) == [2.0, 4.0]
    assert doubles(await neighbour.wait()) == [6.0]
    assert batcher.is_alive()


async def test_an_item_answered_with_nan_fails_alone(batcher: Batcher) -> None:
    with capture_logs() as logged:
        outcomes = await send(batcher, [1, -1, 2]).wait()
    assert isinstance(outcomes[1], ItemFailedError)
    assert logged == [{"event": "outputs_not_finite", "items": 1, "log_level": "error"}]
    assert doubles(outcomes) == [2.0, 4.0]


async def test_an_item_that_could_not_be_read_keeps_its_place(batcher: Batcher) -> None:
    submission = batcher.admit(2, timeout_s=None)
    error = ItemError("unreadable")
    batcher.fail(submission, 0, error)
    batcher.put(submission, 1, ItemRow(row_of(4), ("text",)))
    outcomes = await submission.wait()
    assert outcomes[0] is error
    assert doubles(outcomes) == [8.0]


async def test_a_dead_thread_fails_its_callers_and_is_noticed(doubling: DoublingRuntime) -> None:
    def die(numbers: list[int]) -> None:
        raise SystemExit

    batcher = Batcher(doubling, PLAN, model="doubling", max_queue_items=8)
    doubling.on_batch = die
    first = await occupy(batcher, doubling)
    queued = send(batcher, [1])
    doubling.gate.set()
    for waiter in (first, queued.wait()):
        with pytest.raises(NotReadyError):
            await waiter
    assert not batcher.is_alive()
    with pytest.raises(NotReadyError):
        batcher.admit(1, timeout_s=None)
    await batcher.close(grace_s=1.0)


async def test_an_item_that_arrives_after_the_death_is_failed(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, PLAN, model="doubling", max_queue_items=8)
    admitted = batcher.admit(1, timeout_s=None)
    await batcher.close(grace_s=0.0)
    batcher.put(admitted, 0, ItemRow(row_of(1), ("image",)))
    with pytest.raises(NotReadyError):
        await admitted.wait()


async def test_closing_answers_what_was_admitted_and_refuses_the_rest(batcher: Batcher, doubling: DoublingRuntime) -> None:
    first = await occupy(batcher, doubling)
    queued = asyncio.create_task(send(batcher, [1, 2]).wait())
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close(grace_s=5.0))
    await asyncio.sleep(0.02)
    with pytest.raises(NotReadyError, match="shutting down"):
        batcher.admit(1, timeout_s=None)
    doubling.gate.set()
    await closing
    assert doubles(await first) == [200.0]
    assert doubles(await queued) == [2.0, 4.0]
    assert not batcher.is_alive()


async def test_one_wake_up_serves_all_requests_of_a_batch(batcher: Batcher, doubling: DoublingRuntime) -> None:
    loop = asyncio.get_running_loop()
    wake_ups = 0
    original = loop.call_soon_threadsafe

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal wake_ups
        wake_ups += getattr(args[0], "__module__", "") == "app.engine.submission"
        return original(*args, **kwargs)  # type: ignore[arg-type]

    first = await occupy(batcher, doubling)
    waiting = [send(batcher, [number]) for number in (1, 2, 3, 4)]
    loop.call_soon_threadsafe = counting  # type: ignore[method-assign, assignment]
    try:
        doubling.gate.set()
        await asyncio.gather(first, *(submission.wait() for submission in waiting))
    finally:
        del loop.call_soon_threadsafe
    assert wake_ups == 2
