"""An answer's head and its body in one write.

Owns when the two are joined. Refuses to know what they say.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from socket import SO_LINGER, SOL_SOCKET
from socket import socket as Socket

MOST_JOINED_BYTES = 64 * 1024
"""A larger body is one object for all who read it, however slowly; joined to their heads it would be a copy for each."""


class JoinedWrites:
    """A transport that sends an answer's head together with the body that is about to follow: the loop would make a system
    call of each, and on the other side a packet."""

    __slots__ = ("_close", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None] | None = None) -> None:
        """`close`: in place of the transport's own."""
        self._transport = transport
        self._close = close or transport.close
        self._head = b""

    def hold(self, head: bytes) -> None:
        """Write it with what is written next, or before closing."""
        self._head = head

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            if len(data) > MOST_JOINED_BYTES:
                self._transport.write(head)
            else:
                data = head + data
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._close()

    def reset(self) -> None:
        """Cut the connection so that the other side knows that something is missing; a mere close looks like the end."""
        socket: Socket | None = self._transport.get_extra_info("socket")
        if socket is not None:
            socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
