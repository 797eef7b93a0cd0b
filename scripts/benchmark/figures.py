"""From measured points to the figures that have goals.

Owns the arithmetic: medians over rounds, ratios within a round, goals. Refuses to know how a point was measured and how
figures are shown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

CEILING = "ceiling"


@dataclass(frozen=True, slots=True)
class Point:
    """One short measurement. Of an open loop, `rate_per_s` is what was asked of it. CPU is of the server's processes
    alone; `other_cpu_s` is what the idle contenders used meanwhile."""

    contender: str
    kind: str
    """`json`, `multipart`, `batch64`, `stream64` (NDJSON), … : what a request was."""
    round: int
    concurrency: int
    seconds: float
    items: int
    requests: int
    failures: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    server_cpu_s: float
    generator_cpu_s: float = 0.0
    other_cpu_s: float = 0.0
    rate_per_s: float | None = None
    beside: str = ""
    """Of a ceiling: the contender that was asked between its two halves."""

    @property
    def items_per_s(self) -> float:
        return self.items / self.seconds

    @property
    def cpu_ms_per_item(self) -> float:
        """Core-milliseconds that the server spent on an item; NaN when it answered none."""
        return self.server_cpu_s / self.items * 1000 if self.items else math.nan


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and largest over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        kept = [value for value in values if not math.isnan(value)]
        return cls(statistics.median(kept), min(kept), max(kept)) if kept else None


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with a goal. `value` None: not measured in this run, and `note` says why or how it was come by."""

    name: str
    unit: str
    goal: float
    better: Literal["less", "more"]
    value: Spread | None
    note: str = ""

    @property
    def is_reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value.median <= self.goal if self.better == "less" else self.value.median >= self.goal


class Points:
    """All points of a run, asked by name."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.all = list(points)

    def of(self, contender: str, kind: str, concurrency: int | None = None) -> list[Point]:
        """In the order of the rounds."""
        found = [point for point in self.all if point.contender == contender and point.kind == kind]
        return [point for point in found if concurrency is None or point.concurrency == concurrency]

    def concurrencies(self, contender: str, kind: str) -> list[int]:
        return sorted({point.concurrency for point in self.of(contender, kind)})

    def spread(self, contender: str, kind: str, concurrency: int | None, value: Callable[[Point], float]) -> Spread | None:
        return Spread.of(value(point) for point in self.of(contender, kind, concurrency))

    def best_concurrency(self, contender: str, kind: str = "json") -> int | None:
        """With the most items per second, by the median of the rounds; without an answer, None."""
        rates = {}
        for concurrency in self.concurrencies(contender, kind):
            spread = self.spread(contender, kind, concurrency, lambda point: point.items_per_s)
            if spread is not None and spread.median > 0:
                rates[concurrency] = spread.median
        return max(rates, key=lambda concurrency: rates[concurrency]) if rates else None

    def paired(
        self,
        first: tuple[str, str, int | None],
        second: tuple[str, str, int | None],
        combine: Callable[[Point, Point], float],
    ) -> Spread | None:
        """`combine` of two points of the same round, since the machine's noise is common to a round."""
        return _combined(self.of(*first), self.of(*second), combine)

    def over_ceiling(
        self, contender: str, concurrency: int | None, combine: Callable[[Point, Point], float], *, ceiling: str = "batch"
    ) -> Spread | None:
        """`combine` of a contender's JSON points and the ceilings that were measured around them. A round of all contenders
        takes minutes, in which the machine changes by more than what is asked for here."""
        around = [point for point in self.of(CEILING, ceiling) if point.beside == contender]
        return _combined(self.of(contender, "json", concurrency), around, combine)

    def overhead_ms(self, contender: str, concurrency: int | None) -> Spread | None:
        """Core-milliseconds per item beyond the ceiling's: what serving costs."""
        return self.over_ceiling(contender, concurrency, lambda a, b: a.cpu_ms_per_item - b.cpu_ms_per_item)


def _combined(first: list[Point], second: list[Point], combine: Callable[[Point, Point], float]) -> Spread | None:
    seconds = {point.round: point for point in second}
    pairs = [(point, seconds[point.round]) for point in first if point.round in seconds]
    return Spread.of(combine(*pair) for pair in pairs if pair[0].items and pair[1].items)


@dataclass(frozen=True, slots=True)
class Extras:
    """What is measured outside the rounds."""

    start_s: Sequence[float] = ()
    worker_mib: Sequence[float] = ()
    requests_before_memory: int = 0


def judged_figures(
    points: Points, extras: Extras, *, service: str, plain: str, peers: Sequence[str], cores: int
) -> list[Figure]:
    """The rows of the goals, in their order."""
    ours = points.overhead_ms(service, _most(points, service))
    peer_overheads = {peer: points.overhead_ms(peer, points.best_concurrency(peer)) for peer in peers}
    known = {peer: spread for peer, spread in peer_overheads.items() if spread is not None}
    best_peer = min(known, key=lambda peer: known[peer].median) if known else None
    against_peer = None
    if ours is not None and best_peer is not None and known[best_peer].median > 0:
        against_peer = Spread.of([ours.median / known[best_peer].median])
    by_wall = points.over_ceiling(service, 64, lambda a, b: a.items_per_s / b.items_per_s)
    by_cpu = points.over_ceiling(service, 64, lambda a, b: b.cpu_ms_per_item / a.cpu_ms_per_item)
    plain_best, own_best = points.best_concurrency(plain), points.best_concurrency(service)
    against_plain = None
    if plain_best is not None and own_best is not None:
        against_plain = points.paired(
            (service, "json", own_best), (plain, "json", plain_best), lambda a, b: a.items_per_s / b.items_per_s
        )
    alone = points.over_ceiling(service, 1, lambda a, b: a.p50_ms - b.p50_ms, ceiling="single")
    tail = Spread.of(point.p99_ms / point.p50_ms for point in points.of(service, "open-0.8"))
    batched, streamed = (
        points.paired((service, kind, None), (service, "json", 64), lambda a, b: a.items_per_s / b.items_per_s)
        for kind in ("batch64", "stream64")
    )
    return [
        Figure(
            "overhead per item: server's CPU - ceiling's CPU",
            "core-ms",
            0.25,
            "less",
            ours,
            f"load generator's CPU not counted; {cores} cores",
        ),
        Figure(
            "the same, over the best peer's",
            "",
            0.25,
            "less",
            against_peer,
            f"best peer: {best_peer}" if best_peer else "no peer was measured",
        ),
        Figure(
            "capacity / in-process ceiling, concurrency 64, JSON",
            "",
            0.85,
            "more",
            by_cpu,
            "capacity = cores / server's CPU per item: the generator's share of the cores is not counted",
        ),
        Figure(
            "throughput by the clock / ceiling, concurrency 64, JSON",
            "",
            0.85,
            "more",
            by_wall,
            "the generator runs on the same cores and takes its share",
        ),
        Figure(
            "throughput / FastAPI + TensorFlow, best concurrency of each",
            "",
            3.5,
            "more",
            against_plain,
            f"at {own_best} and {plain_best}; by the clock" if against_plain else "not measured",
        ),
        Figure("p50 at concurrency 1 - in-process time of one item", "ms", 1.0, "less", alone),
        Figure("p99 / p50 at 0.8 of capacity, open loop", "", 4.0, "less", tail, "latency counts from the intended moment"),
        Figure(
            "start to ready, one model on LiteRT", "s", 1.5, "less", Spread.of(extras.start_s), "median of starts, warm disk"
        ),
        Figure(
            "resident memory of the largest worker",
            "MiB",
            220.0,
            "less",
            Spread.of(extras.worker_mib),
            f"after {extras.requests_before_memory:,} requests to the service; LiteRT",
        ),
        Figure("64-item batches, items/s over single items'", "", 1.1, "more", batched, "single items at concurrency 64"),
        Figure("NDJSON streams of 64 lines, the same", "", 1.0, "more", streamed, "8 at a time, as the batches"),
    ]


def _most(points: Points, contender: str) -> int | None:
    known = points.concurrencies(contender, "json")
    return known[-1] if known else None
