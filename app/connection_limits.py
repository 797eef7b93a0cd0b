"""What one connection may cost: bytes of a head, time to send one, time not to read.

Owns the limits that lie below ASGI, where a request does not exist yet or its answer is already written. The pace of a body
that is being read is watched where it is read (`app.api.body`), how many connections there are in `app.connection_room`.
Refuses to know routes and what a request holds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from app import metrics
from app.connection_room import ConnectionRoom
from app.lazy_timer import LazyTimer
from app.lone_client import LoneClient
from app.protocol import Gate, ItemlensHttpProtocol
from app.request_head import Refusal, bare_answer
from app.settings import Settings
from app.unacknowledged import unacknowledged_bytes

_OVERHEAD_BYTES = 64 * 1024
_OVERHEAD_PER_BODY_BYTE = 8
"""A chunked body of single bytes has five bytes of framing for each; beyond this there are only extensions and trailers."""

_SLOW_HEAD = Refusal(408, "slow_head", "The request did not arrive in time.")
_LONG_URL = Refusal(414, "long_url", "The path and query are longer than this service reads.")
_LARGE_HEAD = Refusal(431, "large_head", "The request's headers are larger or more than this service reads.")
_FRAMING = Refusal(400, "malformed", "The body has more framing than content.")
_TOO_MANY = Refusal(503, "too_many", "Too many connections are open; try again.")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The settings of the same names."""

    max_head_bytes: int
    max_headers: int
    max_url_bytes: int
    slow_client_timeout_s: float
    min_client_bytes_per_s: int


def limited_protocol(settings: Settings, *, room: ConnectionRoom, gate: Gate | None = None) -> type[LimitedHttpProtocol]:
    """The protocol of one server."""
    shared_room, asked = room, gate

    class Limited(LimitedHttpProtocol):
        gate = asked
        limits = ConnectionLimits(
            max_head_bytes=settings.max_head_bytes,
            max_headers=settings.max_headers,
            max_url_bytes=settings.max_url_bytes,
            slow_client_timeout_s=settings.slow_client_timeout_s,
            min_client_bytes_per_s=settings.min_client_bytes_per_s,
        )
        room = shared_room
        lone_client = LoneClient()

    return Limited


class LimitedHttpProtocol(ItemlensHttpProtocol):
    """Ends connections that cost more than they may. An idle one is not slow: it has `keep_alive_s`, from its opening too.

    One timer per connection beside that of idle ones, and only while something is unfinished: a request that arrives whole and
    is read at once never has one. Adds to the extension `itemlens.connection`: `stream`, the application watches this answer's
    reader itself; `is_alone`, see `LoneClient`.
    """

    limits: ClassVar[ConnectionLimits]
    room: ClassVar[ConnectionRoom]
    lone_client: ClassVar[LoneClient]

    _idle: LazyTimer
    _timer: asyncio.TimerHandle | None = None
    _messages = 0
    _head_since_s: float | None = None
    _head_bytes = 0
    _field_bytes = 0
    _body_bytes = 0
    _framed_bytes = 0
    _discarding_since_s: float | None = None
    """The request was answered before its body had come; the rest is thrown away."""
    _unread_since_s: float | None = None
    _unread_bytes: int | None = None
    _is_stream = False
    _is_alone = False
    """Nobody else's answers could leave in the same turn."""

    # --- coming and going ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle = LazyTimer(self.loop, self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if self.room.enter(self):
            self._rest()
            return
        self._is_deaf = True
        metrics.ENDED_CONNECTIONS.labels(_TOO_MANY.reason).inc()
        self.transport.write(bare_answer(_TOO_MANY))
        if self.room.may_leave_in_order(self):
            self._linger()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.room.leave(self)
        self._idle.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def _rest(self) -> None:
        """Nothing is under way any more."""
        self.room.idle[self] = None
        self._idle.start()

    def _unset_keepalive_if_required(self) -> None:
        self._idle.stop()

    # --- what comes in ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes | memoryview) -> None:
        if self._is_deaf:
            return
        self.room.idle.pop(self, None)
        message, was_in_head, was_in_body = self._messages, self._head_since_s is not None, self._in_body
        if not was_in_head and not was_in_body:
            self._head_since_s = self.loop.time()
        super().data_received(data)
        if self._is_deaf or self.transport.is_closing():
            return
        # What a parser keeps of an unfinished field it shows to nobody. A read in which a message ends is not counted: it is
        # not known how much of it belongs to which, and it is one read.
        if self._head_since_s is not None:
            if was_in_head and message == self._messages:
                self._head_bytes += len(data)
                if self._head_bytes > self.limits.max_head_bytes:
                    self.refuse(_LARGE_HEAD)
                    return
            self._watch()
        elif self._in_body and was_in_body and message == self._messages:
            self._framed_bytes += len(data)
            if self._framed_bytes > _OVERHEAD_PER_BODY_BYTE * self._body_bytes + _OVERHEAD_BYTES:
                self.refuse(_FRAMING)

    def on_message_begin(self) -> None:
        if self._is_repeating_head:
            return
        super().on_message_begin()
        self.room.idle.pop(self, None)
        self._unset_keepalive_if_required()
        connection = self.scope["extensions"]["itemlens.connection"]
        connection["stream"] = self._let_stream
        connection["is_alone"] = self._is_alone = self.lone_client.ask(self, self.loop.time())
        self._messages += 1
        if self._head_since_s is None:
            self._head_since_s = self.loop.time()
        self._head_bytes = self._field_bytes = self._body_bytes = self._framed_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._field_bytes += len(url)
        if len(self.url) > self.limits.max_url_bytes:
            raise _LONG_URL.anew()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if self._is_repeating_head:
            return
        self._field_bytes += len(name) + len(value) + 4
        if self._field_bytes > self.limits.max_head_bytes or len(self.headers) > self.limits.max_headers:
            raise _LARGE_HEAD.anew()

    def on_headers_complete(self) -> None:
        # Before anything answers.
        self._head_since_s = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if not self._in_body and self._discarding_since_s is not None:
            self._discarding_since_s = None
            self._rest()

    # --- what goes out ------------------------------------------------------------------------------------------

    def _let_stream(self) -> None:
        self._is_stream = True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_since_s = None

    def left_unsent(self) -> None:
        # While an answer is being made, the application is told to pause, and that is watched.
        is_answering = self._running is not None and not self._running.response_complete and not self.transport.is_closing()
        if not is_answering and not (self.flow.write_paused and self._unread_since_s is not None):
            self._watch_reader()

    def on_response_complete(self) -> None:
        self._is_stream = False
        if self._is_alone:
            self.transport.flush()
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self.left_unsent()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return
        if self._in_body:
            self._discarding_since_s = self.loop.time()
            self._watch()
        elif self._head_since_s is None:
            self._rest()

    def refuse(self, refusal: Refusal) -> None:
        # Nothing more is waited for; a second refusal would be written after the end of the first, and end this watching.
        self._head_since_s = self._discarding_since_s = None
        super().refuse(refusal)
        self._watch_reader()

    def _watch_reader(self) -> None:
        self._unread_since_s = self.loop.time()
        self._unread_bytes = None  # measured at the first look, which an answer that is read at once never gets
        self._watch()

    # --- the timer ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.slow_client_timeout_s / 4, self._look)

    def _look(self) -> None:
        """End what has been slow for too long; look again while anything is unfinished."""
        self._timer = None
        now = self.loop.time()
        span_s = self.limits.slow_client_timeout_s
        self._note_reading(now)
        since = [at for at in (self._head_since_s, self._discarding_since_s, self._unread_since_s) if at is not None]
        if not since:
            return
        # Rounded up by the loop's clock resolution, so that a timer is never too early for its own deadline.
        left_s = min(since) + span_s - now
        if left_s > 0.001:
            self._timer = self.loop.call_later(min(left_s, span_s / 4), self._look)
        elif self._unread_since_s is not None and self._unread_since_s + span_s <= now + 0.001:
            metrics.ENDED_CONNECTIONS.labels("slow_reading").inc()
            self.abort()
        elif self._discarding_since_s is not None and self._discarding_since_s + span_s <= now + 0.001:
            metrics.ENDED_CONNECTIONS.labels("slow_body").inc()
            self._discarding_since_s = None
            self.transport.close()
            self._watch_reader()
        else:
            self._head_since_s = None
            self.refuse(_SLOW_HEAD)

    def _note_reading(self, now: float) -> None:
        """Begin a new span where enough was read in this one, or where nobody is waited for."""
        if self._unread_since_s is None:
            return
        left = self.transport.get_write_buffer_size()
        is_closing = self.transport.is_closing()
        is_answering = self._running is not None and not self._running.response_complete
        is_waited_for = is_closing or (left > 0 and (not is_answering or (self.flow.write_paused and not self._is_stream)))
        if not is_waited_for:
            self._unread_since_s = None
            return
        unsent = unacknowledged_bytes(self.transport)
        if self._unread_bytes is None:
            self._unread_bytes = unsent
        elif self._unread_bytes - unsent >= self.limits.min_client_bytes_per_s * self.limits.slow_client_timeout_s:
            self._unread_since_s, self._unread_bytes = now, unsent
