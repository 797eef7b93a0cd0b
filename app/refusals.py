"""Requests refused before their bodies are read, counted in bunches: when there are thousands a second, a log event and a few
metrics for each would take from those that are answered.

Owns their account. Refuses to know why a request is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import structlog

from app import metrics

log = structlog.stdlib.get_logger("itemlens.http")

_DELAY_S = 1.0
_waiting: Counter[tuple[str, str, str, str]] = Counter()
_counting_loop: asyncio.AbstractEventLoop | None = None
"""The loop that will count what waits."""


def count_refusal(method: str, route: str, status: str, reason: str) -> None:
    """Count one within a second. On the event loop."""
    global _counting_loop
    loop = asyncio.get_running_loop()
    if _counting_loop is not loop:
        _counting_loop = loop
        loop.call_later(_DELAY_S, count_waiting)
    _waiting[method, route, status, reason] += 1


def count_waiting() -> None:
    """Count now what was to be counted within a second."""
    global _counting_loop
    _counting_loop = None
    for (method, route, status, reason), count in _waiting.items():
        metrics.REQUEST_COUNT.labels(method, route, status).inc(count)
        metrics.REFUSED_REQUESTS.labels(reason).inc(count)
        log.warning("requests_refused", method=method, route=route, status=int(status), reason=reason, count=count)
    _waiting.clear()
