"""What the service changes in uvicorn's HTTP: a way to end a connection that ASGI has no word for, and upgrades that are
declined as the standard says.

A client that stopped sending is answered and closed; one that does not read has to be cut, because closing waits for what
is buffered. Refuses to know requests' content and routes.
"""

from __future__ import annotations

from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_FRAMING = (b"content-length", b"transfer-encoding")


class ItemlensHttpProtocol(HttpToolsProtocol):
    """Puts `itemlens.connection` into each request's extensions: `close` after what is buffered, or `abort` at once.

    A request that asks for an upgrade is answered over HTTP/1.1, body and all (RFC 9110, section 7.8). Java's HTTP client
    asks for `h2c` with the first request of every plain connection, and the parser alone would drop that request's body.
    """

    _is_reparsing = False

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except _UpgradeAsked as asked:
            self._continue_without_upgrade(data[asked.offset :])

    def on_message_begin(self) -> None:
        if self._is_reparsing:
            return
        super().on_message_begin()
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {"itemlens.connection": {"close": self.transport.close, "abort": self.transport.abort}}
