"""Connections over TLS until both sides agree.

Owns accepting them and their handshakes, which a loop's own server does without telling anybody: here each has its place in the
`ConnectionRoom` from the beginning, and can be dropped. Refuses to know what TLS is made of (`app.tls`) and what is said
afterwards.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import structlog

from app.connection_room import ConnectionRoom
from app.protocol import DRAIN_IDLE_S, ItemlensHttpProtocol
from app.receiver import Receiver

log = structlog.stdlib.get_logger("itemlens")

TLS_SHUTDOWN_S = 2.0
"""How long a closed connection waits for the other side's farewell."""
_RETRY_S = 1.0
"""Until connections are accepted again where the system had no descriptor for one."""


@dataclass(frozen=True, slots=True)
class Handshakes:
    """What the handshakes of one server have in common."""

    context: ssl.SSLContext
    room: ConnectionRoom
    make_receiver: Callable[[], Receiver]
    timeout_s: float


class TlsListener:
    """Accepts on one socket; in place of `asyncio.Server`, as far as uvicorn uses that."""

    def __init__(self, listener: socket.socket, handshakes: Handshakes, *, backlog: int) -> None:
        """On a running loop, which has to be one that can watch a socket: not Windows' own."""
        self._listener = listener
        self._handshakes = handshakes
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()
        self._is_closed = False
        listener.listen(backlog)
        listener.setblocking(False)
        self._watch()

    def close(self) -> None:
        """Accept no more. Handshakes under way go on."""
        self._is_closed = True
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Until the handshakes under way have become connections, as far as they do so within `DRAIN_IDLE_S`."""
        if self._running:
            await asyncio.wait(self._running, timeout=DRAIN_IDLE_S)

    def _watch(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # gone again
            return
        except OSError as error:
            log.error("connection_not_accepted", reason=(error.strerror or type(error).__name__).lower())
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_RETRY_S, self._watch)
            return
        connection.setblocking(False)
        receiver = self._handshakes.make_receiver()

        def drop() -> None:
            # The loop sees the end and lets go of everything; a task that is cancelled before its first step would not.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

        self._handshakes.room.begin_handshake(receiver.protocol, drop)
        task = self._loop.create_task(self._shake_hands(connection, receiver))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _shake_hands(self, connection: socket.socket, receiver: Receiver) -> None:
        shared, protocol = self._handshakes, cast("ItemlensHttpProtocol", receiver.protocol)
        # An OSError is the other side's: it has gone, speaks no TLS, takes too long, or was dropped.
        with suppress(OSError):
            await self._loop.connect_accepted_socket(
                lambda: receiver,
                connection,
                ssl=shared.context,
                ssl_handshake_timeout=shared.timeout_s,
                ssl_shutdown_timeout=TLS_SHUTDOWN_S,
            )
            if self._is_closed:  # it came too late to be told with the others
                protocol.shutdown()
        shared.room.end_handshake(protocol)
