import asyncio
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.engine.batch_plan import plan_batches
from app.engine.batcher import Batcher
from app.engine.errors import ItemFailedError, NotReadyError
from app.engine.submission import ItemRow, Submission
from tests.engine.batching import doubles, occupy, send
from tests.engine.conftest import PLAN, DoublingRuntime, row_of

pytestmark = pytest.mark.anyio

# Of three items two go together, and one is left.
SPLIT = plan_batches({1: 0.0005, 2: 0.001, 4: 0.0017})


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


async def test_who_is_answered_in_the_callers_thread_waits_for_no_turn_of_the_loop(batcher: Batcher) -> None:
    submission = batcher.admit(1, timeout_s=60)
    assert batcher.answer_here(submission, lambda _: ItemRow(row_of(7), ("image",)))
    with pytest.raises(StopIteration) as answered:
        submission.wait().send(None)
    assert doubles(answered.value.value) == [14.0]


@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux counts of a thread")
async def test_an_answer_in_the_callers_thread_does_not_wake_the_runtimes(batcher: Batcher, doubling: DoublingRuntime) -> None:
    doubles(await send(batcher, [3]).wait())
    (runtime,) = (thread for thread in threading.enumerate() if thread.name == "runtime-doubling")

    def turns() -> int:
        """How often it has gone to sleep."""
        status = Path(f"/proc/self/task/{runtime.native_id}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    await asyncio.sleep(0.05)
    before = turns()
    for _ in range(20):
        submission = batcher.admit(1, timeout_s=None)
        assert batcher.answer_here(submission, lambda _: ItemRow(row_of(7), ("image",)))
        assert doubles(await submission.wait()) == [14.0]
        await asyncio.sleep(0.002)
    assert turns() == before


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
