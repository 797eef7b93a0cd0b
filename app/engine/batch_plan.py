"""How many items to take at once: measured on this machine, decided once.

Owns the timing of a runtime's buckets at warm-up and the table that follows from it. Refuses to know queues and
threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from app.engine.runtimes.base import ModelSpec, Runtime

# A bigger batch makes its items wait for each other, and each bucket holds weights and activations of its own (15 MB of the
# shipped model); it must earn that with this much more throughput.
_WORTHWHILE_GAIN = 0.1
_LOT_WORTHWHILE_GAIN = 0.01
"""Of the items of one request, which wait for each other anyway, as those behind them do for all of them."""
PER_CALL_S = 0.001
"""Processor time around one runtime call, whatever its items: working out a batch's answers, waking who waits for them, and
caches that two threads empty for each other. At concurrency 64 on 2 cores an item of the shipped model took 3.8 core-ms in
batches of 4, 3.0 in those of 8, 2.7 of 16 and 2.6 of 32; the calls themselves account for a quarter of what is saved."""
_WARM_UP_RUNS = 3
_WARM_UP_BUDGET_S = 0.06
"""Per bucket. With seven buckets the measurement stays under half a second."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """`take[n]`: how many of n waiting items the next runtime call should take (index 0 unused);
    `seconds[n]`: how long n items then need altogether. `max_items`: the batch size beyond which batching stops paying, where
    items of several requests wait for each other."""

    take: tuple[int, ...]
    seconds: tuple[float, ...]
    max_items: int

    @property
    def max_lot_items(self) -> int:
        """The same where all are of one request; no less than `max_items`."""
        return len(self.take) - 1

    @property
    def seconds_per_item(self) -> float:
        """With full batches."""
        return self.seconds[self.max_items] / self.max_items

    def seconds_for(self, items: int) -> float:
        """Runtime seconds of one request's `items` items on an idle service."""
        full, rest = divmod(items, self.max_lot_items)
        return full * self.seconds[-1] + self.seconds[rest]


def plan_batches(bucket_seconds: Mapping[int, float], *, per_call_s: float = 0.0) -> BatchPlan:
    """From the seconds of one call per bucket (which holds 1), the plan with the least time for every queue length.

    The largest batch is the smallest bucket within 10 % of the best items per second, `per_call_s` included; within 1 % for one
    request's items. Below it, items between two buckets are padded up or split, whichever is faster: where 5 items cost 8 in
    one call, 4 + 1 may be cheaper.
    """
    rates = {bucket: bucket / (seconds + per_call_s) for bucket, seconds in bucket_seconds.items()}
    max_items, largest = (
        min(bucket for bucket, rate in rates.items() if rate >= max(rates.values()) * (1 - gain))
        for gain in (_WORTHWHILE_GAIN, _LOT_WORTHWHILE_GAIN)
    )
    buckets = sorted(bucket for bucket in rates if bucket <= largest)
    take, seconds = [0], [0.0]
    for waiting in range(1, largest + 1):
        options = [
            (bucket_seconds[bucket] + seconds[waiting - min(bucket, waiting)], min(bucket, waiting)) for bucket in buckets
        ]
        # Of equals, the larger take answers more items sooner.
        best_seconds, best_take = min(options, key=lambda option: (option[0], -option[1]))
        take.append(best_take)
        seconds.append(best_seconds)
    return BatchPlan(take=tuple(take), seconds=tuple(seconds), max_items=max_items)


def measure_buckets(
    runtime: Runtime, spec: ModelSpec, *, max_batch_items: int, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Warm every bucket up to `max_batch_items` with real forward passes; the least seconds of one call, by bucket.

    `clock`: of this thread's processor time, where it does all the work; a busy machine then misleads nobody.
    """
    batches = {bucket: _full_batch(spec, bucket) for bucket in runtime.buckets if bucket <= max_batch_items}
    for batch in batches.values():
        runtime.run(batch)  # the first call also allocates and compiles
    runs: dict[int, list[float]] = {bucket: [] for bucket in batches}
    # In turns, so that a moment in which the machine is busy does not make one bucket alone look slow.
    for _ in range(_WARM_UP_RUNS):
        for bucket, batch in batches.items():
            if sum(runs[bucket]) < _WARM_UP_BUDGET_S:
                started = clock()
                runtime.run(batch)
                runs[bucket].append(clock() - started)
    return {bucket: min(seconds) for bucket, seconds in runs.items()}


def warm_buckets(runtime: Runtime, spec: ModelSpec) -> float:
    """One real forward pass per bucket; the least seconds of a call with one item."""
    for bucket in runtime.buckets:
        runtime.run(_full_batch(spec, bucket))
    return min(measure_buckets(runtime, spec, max_batch_items=1).values())


def _full_batch(spec: ModelSpec, items: int) -> dict[str, NDArray[Any]]:
    """Both branches on; the content does not change the cost."""
    batch = spec.blank_batch(items)
    batch["image_present"][:] = True
    batch["text_present"][:] = True
    return batch
