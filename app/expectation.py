"""Clients that send a request's body once they are asked to (`Expect: 100-continue`; RFC 9110, section 10.1.1).

Owns who may wait, and what becomes of the connection of one that is never asked. Refuses to know why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

FRAMING = (b"content-length", b"transfer-encoding")
"""Headers that announce a body."""


def may_wait(scope: Mapping[str, Any]) -> bool:
    """HTTP/1.0 does not know it, and without a body there is nothing to wait for."""
    return scope["http_version"] != "1.0" and any(name in FRAMING and value != b"0" for name, value in scope["headers"])


def closed_unless_asked(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """`app` for a request whose client waits, and whose answer `cycle` writes.

    A client that is answered unasked sends no body, or does, and which is not known: what comes next could be taken for it.
    """

    async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_and_close(message: ASGISendEvent) -> None:
            cycle.keep_alive = cycle.keep_alive and not cycle.waiting_for_100_continue
            await send(message)

        await app(scope, receive, send_and_close)

    return answer
