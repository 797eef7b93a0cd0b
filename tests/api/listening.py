"""The app with its fake engine behind real sockets, in the test's own event loop: what httpx's transport skips is what these
tests are about."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn

from app.listeners import bind_listeners
from app.main import create_app
from app.server import configured_server
from app.settings import Settings
from tests.conftest import FakeEngine


@asynccontextmanager
async def listening(
    settings: Settings, engine: FakeEngine | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """The port."""
    async with serving(settings, engine, context) as (port, _):
        yield port


@asynccontextmanager
async def serving(
    settings: Settings, engine: FakeEngine | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """The port, and the server, which stops once its `should_exit` is set."""
    [listener] = bind_listeners("127.0.0.1", 0, 1)
    port: int = listener.getsockname()[1]
    is_up = asyncio.Event()
    server = configured_server(settings, create_app(settings, engine=engine or FakeEngine()), context, is_up.set)
    # Below `serve`, which would take over the signals of the process that tests.
    running = asyncio.create_task(server._serve([listener]))
    await is_up.wait()
    try:
        yield port, server
    finally:
        server.should_exit = True
        await running


class Client:
    """One connection, with times. Reads with a deadline, so that no test can hang."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """A connection that the service has ended takes nothing more, which is no failure of the test."""
        self.writer.write(data)

    async def receive(self, is_enough: Callable[[bytes], bool] = lambda _: False, timeout_s: float = 10.0) -> bytes:
        """What came until it was enough or the service closed. Raises TimeoutError."""
        received = b""
        async with asyncio.timeout(timeout_s):
            while not is_enough(received):
                try:
                    chunk = await self.reader.read(65536)
                except ConnectionError:
                    chunk = b""
                if not chunk:
                    break
                received += chunk
        return received

    async def ask(self, request: bytes) -> bytes:
        """Send a whole request and take its answer, which has a Content-Length."""
        self.send(request)
        return await self.receive(is_whole)

    async def is_open(self) -> bool:
        """Whether the service has neither said anything nor closed."""
        try:
            async with asyncio.timeout(0.05):
                await self.reader.read(1)
        except TimeoutError:
            return True
        except ConnectionError:
            pass
        return False

    async def dribble(self, data: bytes, every_s: float) -> None:
        """Send byte by byte until it is sent or the service has closed."""
        for byte in data:
            if self.writer.is_closing():
                return
            self.send(bytes([byte]))
            await asyncio.sleep(every_s)


@asynccontextmanager
async def connected(port: int, *, receive_buffer_bytes: int | None = None) -> AsyncIterator[Client]:
    """A client; `receive_buffer_bytes` is the kernel's for it, which is what it can be sent unread."""
    connection = socket.socket()
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    limit = 65536 if receive_buffer_bytes is None else 1024
    reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def is_whole(received: bytes) -> bool:
    """Whether this is an answer with all of the body that its head promises."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and len(body) >= int(lengths[0].split(b":")[1])


def request(path: str, body: bytes = b"", *headers: str, method: str = "POST", host: str = "Host: itemlens") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", host, f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
