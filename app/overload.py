"""Refusing before a body is read what the engine could not take on.

Owns the question and its answer over HTTP. Refuses to know how the engine judges. NDJSON is let through: a stream waits.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from app.edge import context_of, is_bulk, refuse_unread
from app.errors import problem_from


class OverloadGuard:
    """Answer 503 on `paths` while the engine is overloaded: a body that is read and parsed first costs many times as much."""

    def __init__(self, app: ASGIApp, *, paths: frozenset[str]) -> None:
        self.app = app
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self.paths:
            engine = scope["app"].state.engine
            overload = engine.overload() if engine is not None and not is_bulk(context_of(scope)) else None
            if overload is not None:
                await refuse_unread(problem_from(overload), scope, receive, send, reason="overloaded")
                return
        await self.app(scope, receive, send)
