"""One request and its answer on a connection: what the service does more cheaply than uvicorn.

Owns the quick way for an answer of known length that is sent whole, and keeping a body in the pieces it came in; all else is
left to the base class, as is saying what is wrong with an answer. Refuses to know what is answered.
"""

from __future__ import annotations

from typing import Any, cast

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_TEXT = bytes(code for code in range(256) if code == 0x09 or (code >= 0x20 and code != 0x7F))
"""What a header may hold; a line break in a value would begin a header of its own."""
_LEFT_TO_THE_BASE = frozenset({b"transfer-encoding", b"connection"})


class RequestCycle(RequestResponseCycle):
    """Made of uvicorn's own by `take_over`, before any of the body has come."""

    _pieces: list[bytes]
    unread_bytes: int
    """Of the body, not yet received by the application."""

    @classmethod
    def take_over(cls, cycle: RequestResponseCycle) -> None:
        """The base class of the protocol makes its cycles itself."""
        cycle.__class__ = cls
        taken = cast("RequestCycle", cycle)
        taken._pieces, taken.unread_bytes = [], 0

    def add(self, body: bytes) -> None:
        """More of the body has come."""
        self._pieces.append(body)
        self.unread_bytes += len(body)
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        message = cast("dict[str, Any]", await super().receive())
        if message["type"] == "http.request":
            pieces, self._pieces, self.unread_bytes = self._pieces, [], 0
            message["body"] = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return cast("ASGIReceiveEvent", message)

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused or self.disconnected:
            await super().send(message)
            return
        said = cast("dict[str, Any]", message)
        if not (self._finish(said) if self.response_started else self._start(said)):
            await super().send(message)

    def _start(self, said: dict[str, Any]) -> bool:
        """Write the head. False, and nothing is done, where the base class has to see to it."""
        if said["type"] != "http.response.start" or self.access_log or self.scope["method"] == "HEAD":
            return False
        headers = [*self.default_headers, *said.get("headers", ())]
        fields = dict(headers)
        length = fields.get(b"content-length", b"")
        names = b"".join(fields)
        if not length.isdigit() or names != names.lower() or not _LEFT_TO_THE_BASE.isdisjoint(fields):
            return False
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        head = b"%b%b\r\n\r\n" % (STATUS_LINE[said["status"]], b"\r\n".join(map(b": ".join, headers)))
        if head.translate(None, _TEXT) != b"\r\n" * (len(headers) + 2):
            return False
        self.response_started = True
        self.waiting_for_100_continue = False
        self.chunked_encoding = False
        self.expected_content_length = int(length)
        self.transport.write(head)
        return True

    def _finish(self, said: dict[str, Any]) -> bool:
        """Write the whole body. False, and nothing is done, where the base class has to see to it."""
        body = said.get("body", b"")
        if (
            said["type"] != "http.response.body"
            or said.get("more_body", False)
            or self.response_complete
            or self.chunked_encoding is not False
            or len(body) != self.expected_content_length
            or self.scope["method"] == "HEAD"
        ):
            return False
        self.expected_content_length = 0
        self.transport.write(body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True
