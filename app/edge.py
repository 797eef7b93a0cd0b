"""The edge of the service: pure ASGI middlewares around everything else.

Owns what every request gets (an id, timings, security headers, one log event, metrics, a last-resort answer) and the
body limit. Refuses to know routes, models and schemas. Nothing here reads a body's content.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any

import structlog
from prometheus_client import Counter
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import metrics
from app.body_budget import BodyBudget, BodyLease, no_room
from app.engine.items import Timing
from app.errors import ProblemError, problem_response
from app.metrics import SummedHistogram
from app.quota import KeyQuota
from app.refusals import count_refusal

log = structlog.stdlib.get_logger("itemlens.http")

CLIENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What `id` and `X-Request-ID` may look like; anything else is never repeated."""
CLIENT_CLOSED = 499
"""Status, in logs and metrics alone, of a request whose client left before its answer (nginx's number)."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUIET_ROUTES = frozenset({"/health/live", "/health/ready", "/metrics"})

SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""Sent unless the route sets its own value (the docs page does)."""
_SECURITY_NAMES = frozenset(name for name, _ in SECURITY_HEADERS)
TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")


@dataclass(slots=True)
class RequestContext:
    """What is known of one request, for its answer's headers, its log event and its metrics."""

    request_id: str
    headers: dict[bytes, bytes]
    started_s: float = field(default_factory=time.perf_counter)
    timing: Timing = field(default_factory=Timing)
    items: int | None = None
    model: str | None = None
    quota: KeyQuota | None = None
    """Of the caller's key, where there is a limit; the request itself has been counted as one item."""
    announced_bytes: int = 0
    """The body's Content-Length, which the limits have allowed; 0 where there is none."""
    body: BodyLease | None = None
    """What the request holds of the worker's budget for bodies, where it may have one."""
    status: int = CLIENT_CLOSED
    code: str | None = None
    refused_for: str | None = None
    """Why it was refused unread, where such requests are counted together."""
    response_started: bool = False

    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started_s

    def server_timing(self) -> bytes:
        timing = self.timing
        return b"decode;dur=%.1f, queue;dur=%.1f, model;dur=%.1f, total;dur=%.1f" % (
            timing.decode_ms,
            timing.queue_ms,
            timing.model_ms,
            self.elapsed_s() * 1000,
        )


def context_of(scope: MutableMapping[str, Any]) -> RequestContext:
    """The request's context; `RequestEdge` puts it there."""
    context: RequestContext = scope["state"]["context"]
    return context


def route_of(scope: MutableMapping[str, Any], fixed_paths: frozenset[str] = frozenset()) -> str:
    """The route's template ("/v1/models/{name}"), or "unmatched": a path is never a label, unless it is one of
    `fixed_paths` (a request refused before routing has no route yet)."""
    template: str | None = getattr(scope.get("route"), "path", None)
    if template is None:
        return scope["path"] if scope["path"] in fixed_paths else "unmatched"
    return template


class RequestEdge:
    """Outermost: request id, timings, headers, log event, metrics, and an answer when all else failed."""

    def __init__(self, app: ASGIApp, *, fixed_paths: frozenset[str]) -> None:
        self.app = app
        self.fixed_paths = fixed_paths
        self.log = log.bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        context = RequestContext(request_id_of(headers), headers)
        scope.setdefault("state", {})["context"] = context

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.response_started = True
                context.status = message["status"]
                message["headers"] = _finished_headers(list(message.get("headers", ())), context, scope)
            await send(message)

        metrics.record(metrics.REQUESTS_IN_PROGRESS)
        try:
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            context.status = CLIENT_CLOSED
        except asyncio.CancelledError:
            # The server is stopping and its grace is over.
            if context.response_started:
                raise
            detail = "The service is stopping; send again after the time in Retry-After."
            problem = ProblemError("not_ready", detail, headers={"Retry-After": "1"})
            context.code = problem.type.code
            await problem_response(problem, context.request_id)(scope, receive, send_with_headers)
        except Exception:
            log.exception("unhandled_error", request_id=context.request_id, route=route_of(scope))
            if context.response_started:
                # Too late for an answer: returning without the end of the body makes the server close the connection.
                context.code = "internal_error"
            else:
                problem = ProblemError("internal_error")
                context.code = problem.type.code
                await problem_response(problem, context.request_id)(scope, receive, send_with_headers)
        finally:
            metrics.record(metrics.REQUESTS_IN_PROGRESS, -1)
            _report(self.log, scope, context, route_of(scope, self.fixed_paths))


class BodyLimit:
    """Refuse bodies over a limit (413), and those for which there is no room beside the others under way (503): at once by
    Content-Length, else as soon as the bytes counted pass it. A bulk body counts by what is kept of it, which `app.api.bulk`
    knows.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_bulk_body_bytes: int, budget: BodyBudget) -> None:
        self.app = app
        # One that could never find room is too large.
        self.max_body_bytes = min(max_body_bytes, budget.max_bytes)
        self.max_bulk_body_bytes = max_bulk_body_bytes
        self.budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        context = context_of(scope)
        is_stream = is_bulk(context.headers)
        limit = self.max_bulk_body_bytes if is_stream else self.max_body_bytes
        declared = context.headers.get(b"content-length", b"")
        # More than 18 digits is more than any limit; int() of thousands of digits would raise. Zeros in front say nothing.
        digits = declared.lstrip(b"0") or b"0"
        length = 0 if not declared.isdigit() else int(digits) if len(digits) <= 18 else limit + 1
        if length > limit:
            await refuse_unread(_too_large(limit), scope, receive, send)
            return
        if not self.budget.has_room(1 if is_stream else length):
            await refuse_unread(no_room(), scope, receive, send, reason="body_bytes")
            return
        context.announced_bytes = length
        context.body = lease = BodyLease(self.budget)
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                if received > limit:
                    raise _too_large(limit)
                if not is_stream:
                    lease.take(size)
            return message

        try:
            await self.app(scope, counted_receive, send)
        finally:
            lease.close()


def is_bulk(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the body is NDJSON, which is streamed."""
    return headers.get(b"content-type", b"").lower().startswith(b"application/x-ndjson")


async def refuse_unread(
    problem: ProblemError, scope: Scope, receive: Receive, send: Send, *, reason: str | None = None
) -> None:
    """Answer before anything of the body was asked for. The server throws away what comes of it, so that the connection can go
    on.

    `reason`: a label of a metric; such refusals are counted and logged together.
    """
    context = context_of(scope)
    context.code = problem.type.code
    context.refused_for = reason
    await problem_response(problem, context.request_id)(scope, receive, send)


def _too_large(limit: int) -> ProblemError:
    return ProblemError("body_too_large", f"The body may have at most {limit:,} bytes; send fewer items or smaller photos.")


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """As the client named it, or made up."""
    sent = headers.get(b"x-request-id")
    if sent is not None:
        text = sent.decode("latin-1")
        if CLIENT_ID.fullmatch(text):
            return text
    # It names a request and keeps no secret; the system's own source costs a call to the kernel.
    return f"{random.getrandbits(128):032x}"


def _finished_headers(headers: list[tuple[bytes, bytes]], context: RequestContext, scope: Scope) -> list[tuple[bytes, bytes]]:
    names = {name for name, _ in headers}
    headers += SECURITY_HEADERS if names.isdisjoint(_SECURITY_NAMES) else [h for h in SECURITY_HEADERS if h[0] not in names]
    if scope.get("scheme") == "https":
        headers.append(TRANSPORT_SECURITY)
    headers.append((b"x-request-id", context.request_id.encode("ascii")))
    headers.append((b"server-timing", context.server_timing()))
    return headers


@cache
def _metrics_of(method: str, route: str, status: int) -> tuple[Counter, SummedHistogram]:
    """Looked up once: all three come from closed sets."""
    labels = (method, route, str(status))
    return metrics.REQUEST_COUNT.labels(*labels), metrics.REQUEST_DURATION.labels(*labels)


@cache
def _items_of(route: str) -> SummedHistogram:
    return metrics.REQUEST_ITEMS.labels(route)


def _report(log: structlog.stdlib.BoundLogger, scope: Scope, context: RequestContext, route: str) -> None:
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    if context.refused_for is not None:
        count_refusal(method, route, str(context.status), context.refused_for)
        return
    # Each path's answers to every method would be more series than all others.
    label = "unmatched" if context.status == HTTPStatus.METHOD_NOT_ALLOWED else route
    elapsed_s = context.elapsed_s()
    count, duration = _metrics_of(method, label, context.status)
    metrics.record(count)
    metrics.record(duration, elapsed_s)
    metrics.count_soon()
    event: dict[str, Any] = {
        "method": method,
        "route": route,
        "status": context.status,
        "duration_ms": round(elapsed_s * 1000, 2),
        "request_id": context.request_id,
    }
    if context.items is not None:
        metrics.record(_items_of(route), context.items)
        event["items"] = context.items
    if context.model is not None:
        event["model"] = context.model
    if context.code is not None:
        event["code"] = context.code
    if route in _QUIET_ROUTES and context.status < 400:
        log.debug("request", **event)
    else:
        log.info("request", **event)
