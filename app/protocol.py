"""What the service changes in uvicorn's HTTP: which requests are no HTTP, how a connection ends, and what becomes of upgrades.

A client that stopped sending is answered and closed; one that does not read has to be cut, because closing waits for what
is buffered. ASGI has no word for either. Refuses to know routes, limits and what a request holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app import metrics
from app.expectation import FRAMING, closed_unless_asked, may_wait
from app.http10 import without_chunks
from app.refusal_pace import refusal_pace_of
from app.request_cycle import RequestCycle
from app.request_head import MALFORMED, Refusal, bare_answer, check_head
from app.turn_writes import AnswerTransport, TurnWrites

DRAIN_IDLE_S = 1.0
"""How long a stopping service still listens to connections that have no request under way. One may be on its way already, and
closing on it is a failure to its sender; a client that keeps a connection busy speaks within this time."""
LINGER_S = 1.0
"""How long what a refused client still sends is taken and thrown away: closing on it would reset the connection, and the reset
may overtake the refusal."""


UNREAD_BODY_BYTES = 256 * 1024
"""How much of a body may wait for the application before the connection is read no further. A shop's photo in base64 fits:
below its size each request would be paused and resumed."""


class Gate(Protocol):
    def refusal(self, scope: Mapping[str, Any], *, closes: bool) -> bytes | None:
        """The whole answer to the request whose head `scope` holds, or None. `closes`: the connection ends with it."""


class ItemlensHttpProtocol(HttpToolsProtocol):
    """Puts `itemlens.connection` into each request's extensions: `close` after what is buffered, or `abort` at once; `is_lost`,
    and `on_lost`, where the application may put what is to be called when the client is gone; `has_come`: all of the request.

    A request that asks for an upgrade is answered over HTTP/1.1, body and all (RFC 9110, section 7.8). Java's HTTP client
    asks for `h2c` with the first request of every plain connection; the parser stops there and would lose its body.
    """

    _is_repeating_head = False
    _is_draining = False
    _is_deaf = False
    """Nothing that still comes is looked at."""
    _in_body = False
    """The newest message's head is complete and its body is not."""
    _running: RequestResponseCycle | None = None
    _refusal: bytes | None = None
    """The whole answer to the request that has just begun, which the gate refuses."""
    _ends_unread = False
    """The gate has refused the newest request, and the connection ends with it."""
    _is_taking_turns = False
    gate: ClassVar[Gate | None] = None
    transport: TurnWrites

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(TurnWrites(transport, self.loop, self.left_unsent))

    def left_unsent(self) -> None:
        """The kernel did not take all that was sent."""

    # --- ending -------------------------------------------------------------------------------------------------

    def eof_received(self) -> None:
        # Next the loop closes its own transport, which knows nothing of an answer that waits for the turn's end.
        self.transport.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._abandon()
        super().connection_lost(exc)
        # A request's scope leads back here: what nobody needs any more would wait for the garbage collector.
        self.transport.let_go()
        self.pipeline.clear()
        self._running = self.cycle = self.scope = None  # type: ignore[assignment]

    def abort(self) -> None:
        """Cut the connection, whatever is still to be sent."""
        self._abandon()
        self.transport.abort()

    def _abandon(self) -> None:
        """Tell every request that nobody waits any more; the base class tells the newest alone."""
        for cycle in (self._running, *(queued for queued, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.waiting_for_100_continue = False  # nothing more may be written
                cycle.message_event.set()
                connection = cast("dict[str, Any]", cycle.scope)["extensions"]["itemlens.connection"]
                connection["is_lost"] = True
                if connection["on_lost"] is not None:
                    connection["on_lost"]()

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

    def refuse(self, refusal: Refusal) -> None:
        """Read no further, and say why where the client can still tell which request is meant; then close.

        Requests that came before are answered first: a refusal in their place would be taken for their answer.
        """
        self._is_deaf = True
        metrics.ENDED_CONNECTIONS.labels(refusal.reason).inc()
        cycle = self.cycle
        if self._in_body and self.pipeline:
            self.pipeline.popleft()  # the newest, which can never be complete
            cycle = self.pipeline[0][0] if self.pipeline else cast("RequestResponseCycle", self._running)
            cycle.keep_alive = False
        elif self._in_body and (cycle.response_complete or cycle.response_started):
            self.transport.close()
        elif self._in_body or cycle is None or cycle.response_complete:
            self.transport.write(bare_answer(refusal))
            self._linger()
        else:
            cycle.keep_alive = False

    def _close_after_answer(self) -> None:
        """Of a request whose body may still be coming."""
        if self._in_body and self._running is self.cycle and not self.transport.is_closing():
            self._is_deaf = True
            self._linger()
            return
        self.transport.close()
        if self.transport.get_write_buffer_size():  # of an answer that failed: nobody else looks after it
            self.left_unsent()

    def _linger(self) -> None:
        self._abandon()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    # --- parsing ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes | memoryview) -> None:
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._ends_unread:
            # Not before it is known whether the body came together with its head: then there is nothing to wait for.
            self._ends_unread = False
            self._close_after_answer()
            self.on_response_complete()

    def _parse(self, data: bytes | memoryview) -> None:
        # A loop, since each of many pipelined requests may ask.
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                self._decline_upgrade()
                data = data[stopped.args[0] :]
                if not data:
                    return
            except httptools.HttpParserError as error:
                if self._ends_unread:  # behind the last request, or in a body that nobody reads
                    return
                # The parser's own words may repeat what was sent, and a flood of rubbish must not become one of log lines.
                self.refuse(error.__context__ if isinstance(error.__context__, Refusal) else MALFORMED)
                return
            else:
                return

    def on_message_begin(self) -> None:
        if self._is_repeating_head:
            return
        super().on_message_begin()
        scope = cast("dict[str, Any]", self.scope)
        connection = {"close": self.transport.close, "abort": self.abort, "is_lost": False, "on_lost": None, "has_come": False}
        scope["extensions"] = {"itemlens.connection": connection}

    def on_url(self, url: bytes) -> None:
        if not self._is_repeating_head:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # After a body there may be trailers. A field that decides something would come too late in them, so none is kept.
        if self._is_repeating_head or self._in_body:
            return
        # As the base class, but white space around a value is no part of it (RFC 9112, section 5); the parser leaves some.
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._is_repeating_head:
            return
        check_head(self.parser.get_http_version(), self.headers)
        super().on_headers_complete()
        if type(self.cycle) is RequestResponseCycle:
            RequestCycle.take_over(self.cycle)
        self._in_body = True
        if self._is_draining and self.cycle is not None:
            self.cycle.keep_alive = False
        if self._refusal is not None:
            self._answer_unread(self._refusal)

    def on_body(self, body: bytes) -> None:
        cycle = cast("RequestCycle", self.cycle)
        if cycle.response_complete:
            return
        cycle.add(body)
        if cycle.unread_bytes > UNREAD_BODY_BYTES:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        # Where the parser stops for an upgrade it calls the message complete, though its body is still to come.
        if not self.parser.should_upgrade():
            self._in_body = False
            cast("dict[str, Any]", self.scope)["extensions"]["itemlens.connection"]["has_come"] = True
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if cycle.waiting_for_100_continue and not may_wait(cast("dict[str, Any]", cycle.scope)):
            cycle.waiting_for_100_continue = False
        # One that waited for its turn has been received already; and to whom nothing more can be written has to wait.
        if self.gate is not None and not self._is_taking_turns and not self.flow.write_paused:
            # It is not known whether a client that waits to be asked for its body sends it nevertheless.
            keeps = cycle.keep_alive and not cycle.waiting_for_100_continue and not self._is_draining
            self._refusal = self.gate.refusal(cast("dict[str, Any]", cycle.scope), closes=not keeps)
            if self._refusal is not None:
                cycle.keep_alive = keeps
                return
        cycle.transport = cast("asyncio.Transport", AnswerTransport(self.transport, self._close_after_answer))
        if cycle.scope["http_version"] == "1.0":
            app = without_chunks(app, cycle)
        if cycle.waiting_for_100_continue:
            app = closed_unless_asked(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _answer_unread(self, answer: bytes) -> None:
        """In place of the application. What still comes of the body is thrown away."""
        self._refusal = None
        self.cycle.response_started = self.cycle.response_complete = True
        if self.cycle.keep_alive:
            if refusal_pace_of(self.loop).has_to_wait(self.transport.flush):
                self.transport.hold(answer)
            else:
                self.transport.write(answer)
            self.on_response_complete()
        else:
            self.transport.write(answer)
            self._ends_unread = True

    def on_response_complete(self) -> None:
        # As the base class, without its timer.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._is_taking_turns = True
            try:
                self._start_asgi_task(*self.pipeline.pop())
            finally:
                self._is_taking_turns = False

    def _decline_upgrade(self) -> None:
        """Go on with a parser that has seen the same request without its wish."""
        self.parser = httptools.HttpRequestParser(self)
        framing = [b"%s: %s\r\n" % header for header in self.headers if header[0] in FRAMING]
        self._is_repeating_head = True
        try:
            self.parser.feed_data(b"".join((b"POST / HTTP/1.1\r\n", *framing, b"\r\n")))
        finally:
            self._is_repeating_head = False
