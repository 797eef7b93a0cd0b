"""Every metric of the service, declared once.

Owns names, labels, units and buckets. A leaf: it imports nothing else of the app, so that the HTTP front end and the
engine can both report without knowing each other. Label values come from closed sets (route templates, model names,
attribute names, decisions), never from a request's content. With several workers (`PROMETHEUS_MULTIPROC_DIR` is set) each
answer of `render` is their sum.
"""

from __future__ import annotations

import asyncio
import collections
import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    multiprocess,
)

REGISTRY = CollectorRegistry(auto_describe=True)
PROCESS_REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=PROCESS_REGISTRY)
PlatformCollector(registry=PROCESS_REGISTRY)
GCCollector(registry=PROCESS_REGISTRY)

# From a health probe (0.5 ms) to a bulk request of minutes: one set, so that the stages can be compared.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)

BUILD = Gauge("itemlens_build_info", "1 for the version that runs.", ("version",), multiprocess_mode="max", registry=REGISTRY)

# --- HTTP, reported by app.edge ---------------------------------------------------------------------------------

REQUEST_COUNT = Counter(
    "itemlens_http_requests",
    "Requests answered, by route template and status; 499 is a client that left before its answer.",
    ("method", "route", "status"),
    registry=REGISTRY,
)
REQUEST_DURATION = Histogram(
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
REQUEST_ITEMS = Histogram("itemlens_http_request_items", "Items in one request.", ("route",), buckets=_ITEMS, registry=REGISTRY)

# --- The engine, reported by app.engine -------------------------------------------------------------------------

ITEMS = Counter(
    "itemlens_items",
    "Items answered; status is `ok` or the stable code of the item's error.",
    ("model", "status"),
    registry=REGISTRY,
)
DECODE_DURATION_SECONDS = Histogram(
    "itemlens_decode_duration_seconds",
    "Decoding and resizing of one photo, off the event loop.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
QUEUE_DURATION_SECONDS = Histogram(
    "itemlens_queue_duration_seconds",
    "One item's wait between being ready and its batch starting.",
    ("model",),
    buckets=_SECONDS,
    registry=REGISTRY,
)
MODEL_DURATION_SECONDS = Histogram(
    "itemlens_model_duration_seconds", "One runtime call (a batch).", ("model",), buckets=_SECONDS, registry=REGISTRY
)
BATCH_SIZE = Histogram("itemlens_batch_items", "Items in one runtime call.", ("model",), buckets=_ITEMS, registry=REGISTRY)
QUEUE_DEPTH = Gauge(
    "itemlens_queue_items", "Items waiting for the runtime.", ("model",), multiprocess_mode="livesum", registry=REGISTRY
)
DECISIONS = Counter(
    "itemlens_decisions",
    "Decisions per model and attribute; a drifting catalogue shows here first.",
    ("model", "attribute", "decision"),
    registry=REGISTRY,
)
_DECISION_DELAY_S = 0.2
"""Decisions reach their counters this late, summed: an item has one per attribute, and counted at once they cost it 30 us."""
_waiting_decisions: collections.Counter[tuple[str, str, str]] = collections.Counter()
_counting_loop: asyncio.AbstractEventLoop | None = None
"""The loop that will count what waits."""


def count_decision(model: str, attribute: str, decision: str) -> None:
    """Count one decision. On the event loop."""
    global _counting_loop
    loop = asyncio.get_running_loop()
    if _counting_loop is not loop:
        _counting_loop = loop
        loop.call_later(_DECISION_DELAY_S, _count_waiting_decisions)
    _waiting_decisions[model, attribute, decision] += 1


def _count_waiting_decisions() -> None:
    global _counting_loop
    _counting_loop = None
    for labels, count in _waiting_decisions.items():
        DECISIONS.labels(*labels).inc(count)
    _waiting_decisions.clear()


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


def render() -> bytes:
    """All metrics, summed over the workers, in Prometheus' text exposition format, version 0.0.4.

    The process's own (memory, files, garbage collection) are those of the worker that answers.
    """
    _count_waiting_decisions()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY) + generate_latest(PROCESS_REGISTRY)
    shared = CollectorRegistry()
    multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
    return generate_latest(shared) + generate_latest(PROCESS_REGISTRY)
