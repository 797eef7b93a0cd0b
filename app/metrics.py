"""Every metric of the service, declared once.

Owns names, labels, units and buckets. A leaf: of the app it imports only where workers keep their numbers
(`app.metrics_memory`), so that the HTTP front end and the engine can both report without knowing each other. Label values come
from closed sets (route templates, model names, attribute names, decisions), never from a request's content. With several
workers each answer of `render` is their sum.

What is counted for every request or item is only written down at once (`record`, 0.2 us) and reaches its metric summed, up to
0.2 s later: counted at once, in memory that workers share, it cost a request 60 us.
"""

from __future__ import annotations

import asyncio
import collections
import json
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import prometheus_client.values
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app import metrics_memory

# Before the first metric is declared: what each of them is kept in.
prometheus_client.values.ValueClass = metrics_memory.SharedNumber

REGISTRY = CollectorRegistry(auto_describe=True)
PROCESS_REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=PROCESS_REGISTRY)
PlatformCollector(registry=PROCESS_REGISTRY)
GCCollector(registry=PROCESS_REGISTRY)


class SummedHistogram(Histogram):
    """A histogram that takes many values in one go."""

    def observe_all(self, values: list[float]) -> None:
        """What `observe` of each of them would do."""
        self._raise_if_not_observable()  # type: ignore[no-untyped-call]
        for position, count in collections.Counter(bisect_left(self._upper_bounds, value) for value in values).items():
            self._buckets[position].inc(count)
        self._sum.inc(sum(values))


# From a health probe (0.5 ms) to a bulk request of minutes: one set, so that the stages can be compared.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)

BUILD = Gauge(
    "itemlens_build_info", "1 for the version that runs.", ("version",), multiprocess_mode="livemax", registry=REGISTRY
)

# --- HTTP, reported by app.edge ---------------------------------------------------------------------------------

REQUEST_COUNT = Counter(
    "itemlens_http_requests",
    "Requests answered, by route template and status; 499 is a client that left before its answer.",
    ("method", "route", "status"),
    registry=REGISTRY,
)
REQUEST_DURATION = SummedHistogram(
    "itemlens_http_request_duration_seconds",
    "From the first byte of the request to the last of the answer.",
    ("method", "route", "status"),
    buckets=_SECONDS,
    registry=REGISTRY,
)
REQUESTS_IN_PROGRESS = Gauge(
    "itemlens_http_requests_in_progress",
    "Requests that have not been answered yet.",
    multiprocess_mode="livesum",
    registry=REGISTRY,
)
ENDED_CONNECTIONS = Counter(
    "itemlens_http_ended_connections",
    "Connections that the service ended for what they cost or sent: `malformed`, `large_head`, `long_url`, `slow_head`, "
    "`slow_body`, `slow_reading`, `too_many`, `idle_for_another`.",
    ("reason",),
    registry=REGISTRY,
)
REFUSED_REQUESTS = Counter(
    "itemlens_http_refused_requests",
    "Requests answered with 503 before their body was read, up to 1 s late: `overloaded`, more comes than can be answered; "
    "`body_bytes`, the bodies of others under way leave no room. They are in no histogram.",
    ("reason",),
    registry=REGISTRY,
)
REQUEST_ITEMS = SummedHistogram(
    "itemlens_http_request_items", "Items in one request.", ("route",), buckets=_ITEMS, registry=REGISTRY
)

# --- The engine, reported by app.engine -------------------------------------------------------------------------

ITEMS = Counter(
    "itemlens_items",
    "Items answered; status is `ok` or the stable code of the item's error.",
    ("model", "status"),
    registry=REGISTRY,
)
DECODE_DURATION_SECONDS = SummedHistogram(
    "itemlens_decode_duration_seconds",
    "Decoding and resizing of one photo, off the event loop.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
QUEUE_DURATION_SECONDS = SummedHistogram(
    "itemlens_queue_duration_seconds",
    "One item's wait until its batch is taken up.",
    ("model",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
MODEL_DURATION_SECONDS = SummedHistogram(
    "itemlens_model_duration_seconds", "One runtime call (a batch).", ("model",), buckets=_SECONDS, registry=REGISTRY
)
BATCH_SIZE = SummedHistogram(
    "itemlens_batch_items", "Items in one runtime call.", ("model",), buckets=_ITEMS, registry=REGISTRY
)
QUEUE_DEPTH = Gauge(
    "itemlens_queue_items", "Items waiting for the runtime.", ("model",), multiprocess_mode="livesum", registry=REGISTRY
)
DECISIONS = Counter(
    "itemlens_decisions",
    "Decisions per model and attribute; a drifting catalogue shows here first.",
    ("model", "attribute", "decision"),
    registry=REGISTRY,
)
IMAGE_FETCHES = Counter(
    "itemlens_image_fetches",
    "Photos fetched by `image_url`: `ok`, or why not: `unresolved`, `forbidden_address`, `unreachable`, `untrusted` (its "
    "certificate), `bad_answer`, `too_large`, `timed_out`, `cancelled`.",
    ("outcome",),
    registry=REGISTRY,
)
IMAGE_FETCH_DURATION_SECONDS = Histogram(
    "itemlens_image_fetch_duration_seconds",
    "Fetching of one photo, from the look-up of its host's name to its last byte.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
SHED_ITEMS = Counter(
    "itemlens_shed_items",
    "Items refused or dropped before the runtime: `overloaded`, `deadline_exceeded`, `cancelled`.",
    ("model", "reason"),
    registry=REGISTRY,
)
MODEL_READY = Gauge(
    "itemlens_model_ready",
    "1 for a version that serves, 0 for one that was refused (by any worker).",
    ("model", "version"),
    multiprocess_mode="livemin",
    registry=REGISTRY,
)


# --- Writing down now, counting later --------------------------------------------------------------------------------

_DELAY_S = 0.2
_MOST_WAITING = 2_000
"""Of one metric, should the loop not come to counting them; an item has numbers for ten."""
_waiting: collections.defaultdict[Counter | Gauge | SummedHistogram, list[float]] = collections.defaultdict(list)
"""By their metric. A list is added to by any thread, and is shortened in one step by what was read of it."""
_waiting_decisions: collections.Counter[tuple[str, tuple[str, ...], tuple[str, ...]]] = collections.Counter()
"""Items, by their model, the attributes that were asked for, and the decision of each."""
_counting = threading.Lock()
_counting_loop: asyncio.AbstractEventLoop | None = None
"""The loop that will count what waits."""


def record(metric: Counter | Gauge | SummedHistogram, amount: float = 1.0) -> None:
    """Add `amount` to a counter or gauge, or have a histogram observe it, a little later. From any thread."""
    amounts = _waiting[metric]
    amounts.append(amount)
    if len(amounts) > _MOST_WAITING:
        count_waiting()


def record_decisions(model: str, attributes: Iterable[str], decisions: Iterable[str]) -> None:
    """Count an item's decision of each attribute, a little later. On the event loop."""
    _waiting_decisions[model, tuple(attributes), tuple(decisions)] += 1


def count_soon() -> None:
    """See to it that what was recorded is counted. On the event loop."""
    global _counting_loop
    loop = asyncio.get_running_loop()
    if _counting_loop is not loop:
        _counting_loop = loop
        loop.call_later(_DELAY_S, count_waiting)


def count_waiting() -> None:
    """Count all that was recorded."""
    global _counting_loop
    _counting_loop = None
    with _counting:
        for metric, amounts in list(_waiting.items()):
            if not (values := amounts[:]):
                continue
            del amounts[: len(values)]
            if isinstance(metric, SummedHistogram):
                metric.observe_all(values)
            elif amount := sum(values):  # what began and ended meanwhile is no change of a gauge
                metric.inc(amount)
        decisions = list(_waiting_decisions.items())
        _waiting_decisions.clear()
    summed: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for (model, attributes, decided), count in decisions:
        for attribute, decision in zip(attributes, decided, strict=True):
            summed[model, attribute, decision] += count
    for labels, count in summed.items():
        DECISIONS.labels(*labels).inc(count)


def render() -> bytes:
    """All metrics, summed over the workers, in Prometheus' text exposition format, version 0.0.4.

    The process's own (memory, files, garbage collection) are those of the worker that answers.
    """
    count_waiting()
    numbers = metrics_memory.of_all_workers()
    return generate_latest(REGISTRY if numbers is None else _Summed(numbers)) + generate_latest(PROCESS_REGISTRY)


_JOINED: dict[str, Callable[[list[float]], float]] = {"livesum": sum, "livemin": min, "livemax": max}


@cache
def _parsed(key: bytes) -> list[Any]:
    parts: list[Any] = json.loads(key)
    return parts


class _Summed(Collector):
    """The metrics that are declared here with the numbers of all workers."""

    def __init__(self, numbers: dict[bytes, list[float]]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for family in REGISTRY.collect()}
        for family in families.values():
            family.samples = []
        below: dict[tuple[str, ...], float] = {}
        for key, of_workers in self._numbers.items():
            _, mode, name, suffix, labels = _parsed(key)
            number = _JOINED.get(mode, sum)(of_workers)
            if suffix == "_bucket":  # each holds its own alone, in order, and is written out with those below it
                others = {label: value for label, value in labels.items() if label != "le"}
                series = (name, *others.values())
                number = below[series] = below.get(series, 0.0) + number
                if labels["le"] == "+Inf":
                    families[name].add_sample(name + "_count", others, number)
            families[name].add_sample(name + suffix, labels, number)
        yield from families.values()
