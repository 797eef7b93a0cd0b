"""Calls from pages of other origins, where the operator allows some (the Fetch standard's CORS protocol).

Owns the allow-list and the preflight, which browsers send without a key. Refuses cookies: a key is sent as a header or not at
all. An origin that is not listed gets the same answers without a word of permission, and its browser keeps them from the page.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.edge import context_of

_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-API-Key, X-Request-ID, X-Request-Timeout-Ms"),
    (b"access-control-max-age", b"600"),
)
_EXPOSED = (b"access-control-expose-headers", b"Retry-After, Server-Timing, X-Request-ID")


class CrossOrigin:
    """Let pages of the allowed origins read the answers; `origins` as a browser writes them."""

    def __init__(self, app: ASGIApp, *, origins: tuple[str, ...]) -> None:
        self.app = app
        self.origins = frozenset(origin.encode("ascii") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = context_of(scope).headers
        origin = headers.get(b"origin")
        is_allowed = origin is not None and origin in self.origins

        async def send_with_permission(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The answer depends on the origin even where there is none, which a cache in between has to know.
                message["headers"] = [*message.get("headers", ()), (b"vary", b"Origin")]
                if is_allowed:
                    message["headers"] += [(b"access-control-allow-origin", origin), _EXPOSED]
            await send(message)

        if is_allowed and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await send_with_permission({"type": "http.response.start", "status": 204, "headers": list(_PREFLIGHT)})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self.app(scope, receive, send_with_permission)
