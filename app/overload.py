"""Refusing unread what the engine could not take on.

Owns the question and the bytes of its answer: a problem document like any other. It is asked where a request's head ends, below
ASGI, because a refusal has to be cheap: at ten times what can be answered there are nine of them for each answer, and they take
from it. Refuses to know how the engine judges, and sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic_core import to_json

from app.edge import SECURITY_HEADERS, TRANSPORT_SECURITY, is_bulk, request_id_of
from app.engine.errors import OverloadedError
from app.errors import PROBLEM_MEDIA_TYPE, problem_from
from app.refusals import count_refusal
from app.security import sent_key

_HEAD = b"".join(
    (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: %s\r\n" % PROBLEM_MEDIA_TYPE.encode(),
        *(b"%s: %s\r\n" % header for header in SECURITY_HEADERS),
        b"server-timing: decode;dur=0.0, queue;dur=0.0, model;dur=0.0, total;dur=0.0\r\n",
    )
)
_STRICT = b"%s: %s\r\n" % TRANSPORT_SECURITY


class OverloadGate:
    """Shut while every model in use is overloaded. What it lets pass goes its usual way, which may refuse it too: a stream,
    which waits; a page of another origin, which needs headers of its own; whoever has no key, since each refusal counts as a
    request and strangers could hold the gate shut for all."""

    def __init__(self, app: FastAPI, *, paths: frozenset[str]) -> None:
        self._app = app
        self._paths = paths

    def refusal(self, scope: Mapping[str, Any], *, closes: bool) -> bytes | None:
        """The whole answer to the request whose head `scope` holds, or None. `closes`: the connection ends with it."""
        if scope["path"] not in self._paths or scope["method"] != "POST":
            return None
        state = self._app.state
        if state.engine is None or not state.engine.is_overloaded():
            return None
        headers = dict(scope["headers"])
        if is_bulk(headers) or (b"origin" in headers and state.settings.cors_origins):
            return None
        if state.keys and ((key := sent_key(headers)) is None or state.keys.match(key) is None):
            return None
        overload = state.engine.overload()
        if overload is None:
            return None
        count_refusal("POST", scope["path"], "503", "overloaded")
        request_id = request_id_of(headers).encode()
        document = _opened_document(overload.detail)
        return b'%s%sx-request-id: %s\r\nretry-after: %d\r\ncontent-length: %d\r\n%s\r\n%s"%s"}' % (
            _HEAD,
            _STRICT if scope["scheme"] == "https" else b"",
            request_id,
            overload.retry_after_s,
            len(document) + len(request_id) + len(b'""}'),
            b"connection: close\r\n" if closes else b"",
            document,
            request_id,
        )


@cache
def _opened_document(detail: str) -> bytes:
    """The problem document as far as its last value, a request's id (`CLIENT_ID`: nothing in it needs escaping)."""
    document = problem_from(OverloadedError(detail, retry_after_s=0)).document()
    return to_json(document)[:-1] + b',"request_id":'
