"""The one thing that the service adds to uvicorn's HTTP: a way to end a connection that ASGI has no word for.

A client that stopped sending is answered and closed; one that does not read has to be cut, because closing waits for what
is buffered.
"""

from __future__ import annotations

from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class EndableHttpProtocol(HttpToolsProtocol):
    """Puts `itemlens.connection` into each request's extensions: `close` after what is buffered, or `abort` at once."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {"itemlens.connection": {"close": self.transport.close, "abort": self.transport.abort}}
