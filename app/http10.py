"""Answers of unknown length to HTTP/1.0, which knows no chunks (RFC 9112, section 6.1).

Owns that such a body ends with its connection: in order where it is whole, by a reset where it is not. Refuses to know what
the body is.
"""

from __future__ import annotations

from typing import Any, cast

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.turn_writes import AnswerTransport


def without_chunks(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """`app` for a request of HTTP/1.0, whose answer `cycle` writes."""

    async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        has_length, is_whole = cast("HTTPScope", scope)["method"] == "HEAD", False

        async def send_plainly(message: ASGISendEvent) -> None:
            nonlocal has_length, is_whole
            said = cast("dict[str, Any]", message)  # any part of it may be left out
            if said["type"] == "http.response.start":
                has_length = has_length or any(name.lower() == b"content-length" for name, _ in said.get("headers", ()))
                if not has_length:
                    cycle.chunked_encoding = False  # the connection ends with every answer to HTTP/1.0
            elif not has_length:
                cycle.expected_content_length = len(said.get("body", b""))
            await send(message)
            is_whole = said["type"] == "http.response.body" and not said.get("more_body", False)

        try:
            await app(scope, receive, send_plainly)
        finally:
            if not (has_length or is_whole) and cycle.response_started:
                # Closing would look like the end of the body.
                cast("AnswerTransport", cycle.transport).reset()

    return answer
