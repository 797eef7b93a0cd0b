"""A host of photos on a real socket with TLS, a network that leads to it, and a watch on every connection that is attempted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from app.fetch.fetcher import PhotoFetcher, connect
from tests.api.certificates import make_certificate

HOST = "photos.example.com"
PUBLIC = "93.184.215.14"
LOOPBACK = IPv4Address("127.0.0.1")


def ok(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def chunked(body: bytes, chunk_bytes: int = 100) -> bytes:
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed


@dataclass
class PhotoHost:
    """What it was asked, and what it answers: `answers` by target; None is silence, a list is sent with a pause after each."""

    certificate: Path
    key: Path
    port: int = 0
    answers: dict[str, bytes | list[bytes] | None] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    sent_bytes: int = 0
    open_connections: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[PhotoHost]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.sni_callback = lambda tls, name, _: self.names.append(name)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            answer = self.answers[request.split(b" ")[1].decode()]
            if answer is None:
                await reader.read()
                return
            for part in [answer] if isinstance(answer, bytes) else answer:
                writer.write(part)
                await writer.drain()
                self.sent_bytes += len(part)
                if isinstance(answer, list):
                    await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1
            writer.transport.abort()

    async def is_left(self) -> None:
        """Until nobody is connected any more."""
        async with asyncio.timeout(30):
            while self.open_connections:
                await asyncio.sleep(0.01)

    def trust(self) -> ssl.SSLContext:
        """Of a client that trusts this host's certificate alone."""
        return ssl.create_default_context(cafile=str(self.certificate))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("photo-host"), host=HOST)


@pytest.fixture
async def photo_host(pair: tuple[Path, Path]) -> AsyncIterator[PhotoHost]:
    async with PhotoHost(*pair).listening() as host:
        yield host


@dataclass
class Network:
    """The lowest layer, by hand: names resolve to what `addresses` says, and each address leads to the port on loopback that
    `leads_to` says, else nowhere."""

    addresses: dict[str, Sequence[str]] = field(default_factory=dict)
    leads_to: dict[str, int] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)
    connected_to: list[tuple[str, int]] = field(default_factory=list)

    async def resolve(self, host: str) -> Sequence[str]:
        self.looked_up.append(host)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.addresses[host]

    async def connect(self, address: IPv4Address | IPv6Address, port: int) -> socket.socket:
        self.connected_to.append((str(address), port))
        if str(address) not in self.leads_to:
            raise ConnectionRefusedError
        return await connect(LOOPBACK, self.leads_to[str(address)])

    def fetcher(self, host: PhotoHost, **options: Any) -> PhotoFetcher:
        """A fetcher that sees `host` at `PUBLIC` under the name `HOST`."""
        self.addresses.setdefault(HOST, [PUBLIC])
        self.leads_to.setdefault(PUBLIC, host.port)
        values: dict[str, Any] = {"hosts": [HOST], "timeout_s": 5.0, "max_image_bytes": 100_000, "tls": host.trust()}
        return PhotoFetcher(**values | options, resolve_host=self.resolve, connect_to=self.connect)


@pytest.fixture
def network() -> Network:
    return Network()


@asynccontextmanager
async def listening(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """The port of a server without TLS."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


Connected = list[Any]


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> Connected:
    """Every address that a socket of this process is told to connect to from now on, none of which is reached."""
    attempted: Connected = []

    def watch(_: socket.socket, address: Any) -> None:
        attempted.append(address)
        raise ConnectionRefusedError

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, watch)
    return attempted


def resolving(*answers: Sequence[str]) -> Callable[[str], Any]:
    """A resolver that gives one answer after the other, as one that rebinds a name does."""
    left = list(answers)

    async def resolve(host: str) -> Sequence[str]:
        return left.pop(0)

    return resolve
