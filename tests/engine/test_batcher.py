import asyncio
import time

import pytest
from structlog.testing import capture_logs

from app.engine.batch_plan import plan_batches
from app.engine.batcher import Batcher
from app.engine.errors import DeadlineExceededError, ItemError, ItemFailedError, NotReadyError, OverloadedError, RequestError
from app.engine.submission import ItemRow
from app.metrics import SHED_ITEMS
from tests.engine.batching import doubles, occupy, send
from tests.engine.conftest import PLAN, DoublingRuntime, row_of

pytestmark = pytest.mark.anyio

# Of three items two go together, and one is left.
SPLIT = plan_batches({1: 0.0005, 2: 0.001, 4: 0.0017})


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


LOTS = plan_batches({1: 0.001, 2: 0.00125, 4: 0.0021, 8: 0.0039})


async def test_items_of_one_request_go_together_in_larger_batches(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, LOTS, model="doubling", max_queue_items=64)
    first = await occupy(batcher, doubling)
    many, one = send(batcher, range(10)), send(batcher, [50])
    doubling.gate.set()
    await first
    assert doubles(await many.wait()) == [2.0 * number for number in range(10)]
    assert doubles(await one.wait()) == [100.0]
    assert doubling.batches == [[100], [*range(8)], [8, 9, 50]]
    await batcher.close(grace_s=1.0)


async def test_nobody_waits_for_more_of_another_request_than_a_full_batch_holds(doubling: DoublingRuntime) -> None:
    batcher = Batcher(doubling, LOTS, model="doubling", max_queue_items=64)
    first = await occupy(batcher, doubling)
    one, many = send(batcher, [50]), send(batcher, range(10))
    doubling.gate.set()
    await first
    assert doubles(await one.wait()) == [100.0]
    await many.wait()
    assert doubling.batches == [[100], [50, 0, 1, 2], [*range(3, 10)]]
    await batcher.close(grace_s=1.0)
