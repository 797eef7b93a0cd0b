"""What the service changes in uvicorn's HTTP: connections can be ended, and upgrades are declined as the standard says.

A client that stopped sending is answered and closed; one that does not read has to be cut, because closing waits for what
is buffered. ASGI has no word for either. Refuses to know routes and what a request holds.
"""

from __future__ import annotations

from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_FRAMING = (b"content-length", b"transfer-encoding")

DRAIN_IDLE_S = 1.0
"""How long a stopping service still listens to connections that have no request under way. One may be on its way already, and
closing on it is a failure to its sender; a client that keeps a connection busy speaks within this time."""


class ItemlensHttpProtocol(HttpToolsProtocol):
    """Puts `itemlens.connection` into each request's extensions: `close` after what is buffered, or `abort` at once.

    A request that asks for an upgrade is answered over HTTP/1.1, body and all (RFC 9110, section 7.8). Java's HTTP client
    asks for `h2c` with the first request of every plain connection; the parser stops there and would lose its body.
    """

    _is_repeating_head = False
    _is_draining = False

    def shutdown(self) -> None:
        """Close after the answer under way, or after the next one; without any, after `DRAIN_IDLE_S`."""
        self._is_draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(DRAIN_IDLE_S, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        # A loop, since each of many pipelined requests may ask.
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                self._decline_upgrade()
                data = data[stopped.args[0] :]
                if not data:
                    return
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("Invalid HTTP request received.")
                return
            else:
                return

    def on_message_begin(self) -> None:
        if self._is_repeating_head:
            return
        super().on_message_begin()
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {"itemlens.connection": {"close": self.transport.close, "abort": self.transport.abort}}

    def on_url(self, url: bytes) -> None:
        if not self._is_repeating_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_repeating_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_repeating_head:
            super().on_headers_complete()
            if self._is_draining and self.cycle is not None:
                self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        # Where the parser stops for an upgrade it calls the message complete, though its body is still to come.
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _decline_upgrade(self) -> None:
        """Go on with a parser that has seen the same request without its wish."""
        self.parser = httptools.HttpRequestParser(self)
        framing = [b"%s: %s\r\n" % header for header in self.headers if header[0] in _FRAMING]
        self._is_repeating_head = True
        try:
            self.parser.feed_data(b"".join((b"POST / HTTP/1.1\r\n", *framing, b"\r\n")))
        finally:
            self._is_repeating_head = False
