"""Fetches one photo from an allowed host, by way of an address that was looked at first.

Owns the order: form and host of the URL, one look-up of the name, a check of every address that it gave, a connection to one
of exactly these, TLS for the name, one answer; all within one time limit. Every failure on that way is told to the client in
the same words, so that nobody learns from them what is there; which it was is a metric for the operator.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from app.engine.errors import ImageNotFetchedError, ImageTooLargeError
from app.engine.items import PhotoSource
from app.fetch.addresses import is_public, parse_address
from app.fetch.answer import Answer, AnswerTooLargeError, BadAnswerError, request_for
from app.fetch.exchange import Exchange
from app.fetch.photo_url import HostList, PhotoUrl, parse_url
from app.metrics import IMAGE_FETCH_DURATION_SECONDS, IMAGE_FETCHES

_PORT = 443
_MAX_ATTEMPTS = 3
"""Addresses of one host that are tried, each with its share of the time."""
Address = IPv4Address | IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""From a host's name to its addresses. Raises OSError."""
Connect = Callable[[Address, int], Awaitable[socket.socket]]
"""To an address and port; the socket is non-blocking. Raises OSError."""


class _FetchFailed(Exception):
    """`outcome`: the metric's label."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


async def resolve(host: str) -> Sequence[str]:
    """Both families, as far as this machine speaks them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, _PORT, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def connect(address: Address, port: int) -> socket.socket:
    """A TCP connection to exactly this address."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection


class PhotoFetcher:
    """Safe to call from many tasks of one event loop; how many at once is for the caller to bound.

    `hosts`: as `parse_hosts` gives them. `timeout_s`: for one photo, from the look-up of its host to its last byte.
    `resolve_host`, `connect_to`, `tls`: the network and the trusted certificates, by default this machine's.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        timeout_s: float,
        max_image_bytes: int,
        resolve_host: Resolve = resolve,
        connect_to: Connect = connect,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = HostList(hosts)
        self._timeout_s = timeout_s
        self._max_image_bytes = max_image_bytes
        self._resolve = resolve_host
        self._connect = connect_to
        if tls is None:
            tls = ssl.create_default_context()
            tls.minimum_version = ssl.TLSVersion.TLSv1_2
            tls.set_alpn_protocols(["http/1.1"])
        self._tls = tls

    def source_of(self, url: str) -> PhotoSource:
        """What fetches the photo when it is called; it raises ImageNotFetchedError or ImageTooLargeError.

        Raises `ForbiddenUrlError`, before any network, for an address that is not allowed.
        """
        return partial(self._fetch, parse_url(url, self._hosts))

    async def _fetch(self, url: PhotoUrl) -> bytes:
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            async with asyncio.timeout(self._timeout_s):
                photo = await self._exchange(url)
            outcome = "ok"
            return photo
        except AnswerTooLargeError:
            outcome = "too_large"
            raise ImageTooLargeError(
                f"The photo has more than {self._max_image_bytes:,} bytes; name a smaller one.", field="image"
            ) from None
        except _FetchFailed as failure:
            outcome = failure.outcome
            raise _not_fetched() from None
        except TimeoutError:
            outcome = "timed_out"
            raise _not_fetched() from None
        finally:
            IMAGE_FETCHES.labels(outcome).inc()
            IMAGE_FETCH_DURATION_SECONDS.observe(time.perf_counter() - started)

    async def _exchange(self, url: PhotoUrl) -> bytes:
        connection = await self._open(await self._addresses_of(url.host))
        exchange = Exchange(request_for(url), Answer(self._max_image_bytes))
        try:
            # The name, not the address, is asked for (SNI) and has to be in the certificate.
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: exchange, sock=connection, ssl=self._tls, server_hostname=url.host
            )
        except OSError as error:
            connection.close()
            raise _FetchFailed("untrusted" if isinstance(error, ssl.SSLCertVerificationError) else "unreachable") from None
        try:
            return await exchange.photo()
        except BadAnswerError:
            raise _FetchFailed("bad_answer") from None
        finally:
            # Nothing more is wanted of it, whatever it still sends.
            transport.abort()

    async def _addresses_of(self, host: str) -> list[Address]:
        try:
            found = [parse_address(text) for text in await self._resolve(host)]
        except (OSError, ValueError):
            raise _FetchFailed("unresolved") from None
        if not found:
            raise _FetchFailed("unresolved")
        # One bad address condemns the name: who controls it chooses which one is taken.
        if not all(is_public(address) for address in found):
            raise _FetchFailed("forbidden_address")
        return found[:_MAX_ATTEMPTS]

    async def _open(self, addresses: Sequence[Address]) -> socket.socket:
        ends_at = time.monotonic() + self._timeout_s
        for tried, address in enumerate(addresses):
            share_s = max(0.0, ends_at - time.monotonic()) / (len(addresses) - tried)
            try:
                async with asyncio.timeout(share_s):
                    return await self._connect(address, _PORT)
            except OSError:  # a timeout is one
                continue
        raise _FetchFailed("unreachable")


def _not_fetched() -> ImageNotFetchedError:
    return ImageNotFetchedError(
        "The photo could not be fetched from its address; send the photo itself in image.", field="image"
    )
