"""Where what clients send is received: one buffer for all connections of a server.

Owns that buffer. A loop would make an object of each read, and the parser makes one of the body in it: two photos' worth of
memory to write to for every photo, in caches that the next batch needs. Refuses to know what is received.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

RECEIVE_BYTES = 256 * 1024
"""At once: a shop's photo in base64 and its head fit."""


class ReceivingProtocol(Protocol):
    """An `asyncio.Protocol` whose `data_received` keeps nothing of the data."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def data_received(self, data: memoryview) -> None: ...

    def eof_received(self) -> bool | None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Receiver(asyncio.BufferedProtocol):
    """Stands between a transport and its protocol. `buffer` is filled and emptied within one call of the loop."""

    buffer: ClassVar[memoryview]
    """Of one server (`receiving`): two event loops must not share one."""

    __slots__ = ("protocol",)

    def __init__(self, protocol: ReceivingProtocol) -> None:
        self.protocol = protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.protocol.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.protocol.data_received(self.buffer[:nbytes])

    def eof_received(self) -> bool | None:
        return self.protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()


def receiving(make_protocol: Callable[..., ReceivingProtocol]) -> type[Receiver]:
    """Makes, called as `make_protocol` is, a receiver of what that makes; all of them share a buffer."""
    shared = memoryview(bytearray(RECEIVE_BYTES))

    class ServerReceiver(Receiver):
        buffer = shared

        def __init__(self, **given: Any) -> None:
            super().__init__(make_protocol(**given))

    return ServerReceiver
