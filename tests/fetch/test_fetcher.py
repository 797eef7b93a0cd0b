"""Fetching over real sockets and TLS, and everything that must not be connected to."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.engine.errors import ImageNotFetchedError, ImageTooLargeError, ItemError
from app.fetch.fetcher import PhotoFetcher, resolve
from app.fetch.photo_url import ForbiddenUrlError
from app.metrics import IMAGE_FETCHES
from tests.api.certificates import make_certificate
from tests.fetch.photo_host import HOST, PUBLIC, Connected, Network, PhotoHost, chunked, listening, ok, resolving
from tests.fetch.test_addresses import FORBIDDEN_V4, FORBIDDEN_V6, disguised
from tests.fetch.test_photo_url import FORBIDDEN
from tests.garbage import garbage_of

pytestmark = pytest.mark.anyio

PHOTO = bytes(range(256)) * 40
URL = f"https://{HOST}/a.jpg?size=2"
TARGET = "/a.jpg?size=2"


@pytest.fixture(params=["uvloop", pytest.param("asyncio", marks=pytest.mark.slow)])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return ("asyncio", {"use_uvloop": request.param == "uvloop"})


async def outcome_of(fetcher: PhotoFetcher, url: str = URL) -> tuple[str, ItemError]:
    """The metric's label and the error of one fetch that fails."""
    before = outcomes()
    with pytest.raises(ItemError) as caught:
        await fetcher.source_of(url)()
    (label,) = [label for label, count in outcomes().items() if count != before.get(label, 0)]
    return label, caught.value


def outcomes() -> dict[str, float]:
    (metric,) = IMAGE_FETCHES.collect()
    return {sample.labels["outcome"]: sample.value for sample in metric.samples if sample.name.endswith("_total")}


def assert_told_nothing(error: ItemError) -> None:
    assert isinstance(error, ImageNotFetchedError)
    assert error.detail == "The photo could not be fetched from its address; send the photo itself in image."
    assert error.__cause__ is None
    assert error.__suppress_context__


# --- what arrives ---


@pytest.mark.parametrize(
    "answer",
    [
        ok(PHOTO),
        ok(PHOTO, "Content-Type: text/html"),
        ok(PHOTO, "Content-Encoding: identity"),
        ok(PHOTO, "Upgrade: h2,h2c", "Connection: Upgrade"),
        chunked(PHOTO),
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + ok(PHOTO),
        b"HTTP/1.0 200 OK\r\n\r\n" + PHOTO,
        [ok(PHOTO)[:40], ok(PHOTO)[40:500], ok(PHOTO)[500:]],
    ],
    ids=["length", "other type", "identity", "offers HTTP/2", "chunked", "interim", "until the end", "in pieces"],
)
async def test_a_photo_arrives_as_it_is(photo_host: PhotoHost, network: Network, answer: bytes | list[bytes]) -> None:
    photo_host.answers[TARGET] = answer
    assert await network.fetcher(photo_host).source_of(URL)() == PHOTO
    assert network.looked_up == [HOST]
    assert network.connected_to == [(PUBLIC, 443)]
    assert photo_host.names == [HOST]
    (request,) = photo_host.requests
    lines = request.decode().split("\r\n")
    assert lines[0] == f"GET {TARGET} HTTP/1.1"
    assert {"Host: photos.example.com", "Accept-Encoding: identity", "Connection: close"} < set(lines)
    assert "cookie" not in request.decode().lower()
    await photo_host.is_left()


@pytest.mark.parametrize("size_bytes", [0, 10_000, 300_000, 3_000_000])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_whole_photo_counts_however_the_host_closes(
    pair: tuple[Path, Path], network: Network, size_bytes: int, is_chunked: bool
) -> None:
    """As servers do that close the socket and leave out TLS's own end."""
    photo = bytes(size_bytes)
    answer = chunked(photo, 50_000) if is_chunked else ok(photo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)

    def serve() -> None:
        with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(4096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        host = PhotoHost(*pair, port=listener.getsockname()[1])
        fetching = network.fetcher(host, max_image_bytes=4_000_000).source_of(URL)
        _, fetched = await asyncio.gather(asyncio.to_thread(serve), fetching())
    assert fetched == photo


@pytest.mark.parametrize(
    "answer",
    [ok(PHOTO), chunked(PHOTO), b"HTTP/1.0 200 OK\r\n\r\n" + PHOTO, ok(PHOTO)[:-1], ok(bytes(100_001)), b"SSH-2.0\r\n"],
    ids=["length", "chunked", "until the end", "cut", "too large", "no HTTP"],
)
async def test_a_fetch_leaves_nothing_behind(photo_host: PhotoHost, network: Network, answer: bytes) -> None:
    photo_host.answers[TARGET] = answer
    source = network.fetcher(photo_host).source_of(URL)

    async def fetch() -> None:
        with suppress(ItemError):
            await source()
        await photo_host.is_left()
        await asyncio.sleep(0.01)

    await fetch()  # what is made once
    with garbage_of() as garbage:
        for _ in range(3):
            await fetch()
    assert not garbage


async def test_an_address_that_does_not_answer_leaves_time_for_the_next(photo_host: PhotoHost, network: Network) -> None:
    network.addresses[HOST] = ["2606:4700::1", PUBLIC]
    photo_host.answers[TARGET] = ok(PHOTO)
    assert await network.fetcher(photo_host).source_of(URL)() == PHOTO
    assert network.connected_to == [("2606:4700::1", 443), (PUBLIC, 443)]


async def test_proxies_of_the_environment_are_not_used(
    photo_host: PhotoHost, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    photo_host.answers[TARGET] = ok(PHOTO)
    assert await network.fetcher(photo_host).source_of(URL)() == PHOTO
    assert network.connected_to == [(PUBLIC, 443)]


# --- what does not, and what is said of it ---


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        ok(PHOTO, "Content-Encoding: gzip"),
        ok(PHOTO)[:-1],
        chunked(PHOTO)[:-3],
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;%s\r\nx\r\n" % (b"e" * 1000) * 300,
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x16\x03\x01\x00\x05",
        b"",
    ],
    ids=lambda answer: answer[:24].decode("latin-1").strip(),
)
async def test_anything_but_a_whole_200_is_told_in_the_same_words(
    photo_host: PhotoHost, network: Network, answer: bytes
) -> None:
    photo_host.answers[TARGET] = answer
    label, error = await outcome_of(network.fetcher(photo_host))
    assert label == "bad_answer"
    assert_told_nothing(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(photo_host: PhotoHost, network: Network, status: int) -> None:
    for location in ("http://169.254.169.254/", "https://127.0.0.1/", f"https://{HOST}/other"):
        photo_host.answers[TARGET] = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
        label, error = await outcome_of(network.fetcher(photo_host))
        assert label == "bad_answer"
        assert_told_nothing(error)
    assert network.connected_to == [(PUBLIC, 443)] * 3
    assert network.looked_up == [HOST] * 3


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_an_oversize_photo_is_cut_at_the_cap(photo_host: PhotoHost, network: Network, is_chunked: bool) -> None:
    # A hundred times the cap. What was sent when the connection ended is in the kernel's buffers, and by far not all.
    length = b"Transfer-Encoding: chunked\r\n\r\n989680" if is_chunked else b"Content-Length: 10000000\r\n"
    photo_host.answers[TARGET] = [b"HTTP/1.1 200 OK\r\n" + length + b"\r\n", *[bytes(50_000)] * 200]
    label, error = await outcome_of(network.fetcher(photo_host))
    assert label == "too_large"
    assert isinstance(error, ImageTooLargeError)
    assert "100,000" in error.detail
    assert photo_host.sent_bytes < 1_000_000


async def test_a_photo_of_just_the_cap_is_taken(photo_host: PhotoHost, network: Network) -> None:
    for answer in (ok(bytes(100_000)), chunked(bytes(100_000), 1000)):
        photo_host.answers[TARGET] = answer
        assert len(await network.fetcher(photo_host).source_of(URL)()) == 100_000


@pytest.mark.parametrize(
    "answer",
    [None, [b"HTTP/1.1 200 OK\r\n"] * 1 + [b"X: y\r\n"] * 400, [ok(PHOTO)[:100]] + [b"x"] * 400],
    ids=["silent", "slow head", "slow body"],
)
async def test_a_slow_host_is_cut_at_the_time_limit(
    photo_host: PhotoHost, network: Network, answer: list[bytes] | None
) -> None:
    photo_host.answers[TARGET] = answer
    began_s = time.monotonic()
    label, error = await outcome_of(network.fetcher(photo_host, timeout_s=0.15))
    # By itself it would take twenty seconds or for ever.
    assert time.monotonic() - began_s < 10
    assert label == "timed_out"
    assert_told_nothing(error)


async def test_a_handshake_that_does_not_come_is_cut_at_the_time_limit(photo_host: PhotoHost, network: Network) -> None:
    gone = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    async with listening(listen) as network.leads_to[PUBLIC]:
        label, error = await outcome_of(network.fetcher(photo_host, timeout_s=0.5))
        assert label == "timed_out"
        assert_told_nothing(error)
        async with asyncio.timeout(30):
            await gone.wait()


async def test_a_slow_look_up_is_cut_at_the_time_limit(photo_host: PhotoHost, network: Network) -> None:
    async def never(host: str) -> Sequence[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    network.resolve = never  # type: ignore[method-assign]
    label, error = await outcome_of(network.fetcher(photo_host, timeout_s=0.05))
    assert label == "timed_out"
    assert_told_nothing(error)


async def test_a_fetch_that_nobody_waits_for_ends_at_once(photo_host: PhotoHost, network: Network) -> None:
    photo_host.answers[TARGET] = None
    fetching = asyncio.ensure_future(network.fetcher(photo_host).source_of(URL)())
    async with asyncio.timeout(5):
        while not photo_host.requests:
            await asyncio.sleep(0.01)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
    await photo_host.is_left()


async def test_a_certificate_of_another_name_or_maker_is_refused(
    photo_host: PhotoHost, network: Network, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    photo_host.answers[TARGET] = ok(PHOTO)
    other = "other.example.com"
    network.addresses[other] = [PUBLIC]
    named, _ = await outcome_of(network.fetcher(photo_host, hosts=[other]), f"https://{other}/a.jpg?size=2")
    stranger, _ = make_certificate(tmp_path, host=HOST)
    unknown, error = await outcome_of(network.fetcher(photo_host, tls=ssl.create_default_context(cafile=str(stranger))))
    assert (named, unknown) == ("untrusted", "untrusted")
    assert_told_nothing(error)
    assert photo_host.requests == []
    assert "example.com" not in caplog.text


async def test_the_default_trust_verifies_names_and_chains(photo_host: PhotoHost, network: Network) -> None:
    photo_host.answers[TARGET] = ok(PHOTO)
    assert (await outcome_of(network.fetcher(photo_host, tls=None)))[0] == "untrusted"
    assert photo_host.requests == []


async def test_plain_text_where_tls_is_expected_is_refused(photo_host: PhotoHost, network: Network) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(PHOTO))
        writer.close()

    async with listening(answer) as network.leads_to[PUBLIC]:
        label, error = await outcome_of(network.fetcher(photo_host))
        assert label == "unreachable"
        assert_told_nothing(error)


async def test_nothing_there_and_no_such_name_sound_alike(photo_host: PhotoHost, network: Network) -> None:
    fetcher = network.fetcher(photo_host)
    network.leads_to.clear()
    unreachable, first = await outcome_of(fetcher)
    network.addresses.clear()
    unresolved, second = await outcome_of(fetcher)
    network.addresses[HOST] = []
    empty, third = await outcome_of(fetcher)
    assert (unreachable, unresolved, empty) == ("unreachable", "unresolved", "unresolved")
    for error in (first, second, third):
        assert_told_nothing(error)


# --- what is never connected to: no socket of the process is told to ---


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def fetcher_of(tls: ssl.SSLContext, *addresses: str) -> PhotoFetcher:
    return PhotoFetcher([HOST], timeout_s=5.0, max_image_bytes=1000, resolve_host=resolving(addresses), tls=tls)


async def test_a_public_address_is_connected_to_by_its_number(connects: Connected, tls: ssl.SSLContext) -> None:
    """What the watch sees when something is attempted: the tests below would see it too."""
    for address, expected in (
        (PUBLIC, (PUBLIC, 443)),
        ("2606:4700::1", ("2606:4700::1", 443)),
        (f"64:ff9b::{PUBLIC}", ("64:ff9b::5db8:d70e", 443)),
    ):
        assert (await outcome_of(fetcher_of(tls, address)))[0] == "unreachable"
        assert connects.pop()[:2] == expected


async def test_no_forbidden_address_is_connected_to(connects: Connected, tls: ssl.SSLContext) -> None:
    forms = [*FORBIDDEN_V6, *FORBIDDEN_V4, *(form for address in FORBIDDEN_V4 for form in disguised(address))]
    for form in forms:
        # Alone, and in the company of public ones.
        for addresses in ([form], [PUBLIC, form], [form, PUBLIC], [PUBLIC, PUBLIC, PUBLIC, form]):
            label, error = await outcome_of(fetcher_of(tls, *addresses))
            assert label == "forbidden_address", form
            assert_told_nothing(error)
    assert connects == []


async def test_a_name_that_is_rebound_is_looked_up_once(connects: Connected) -> None:
    rebinding = resolving([PUBLIC], ["127.0.0.1"])
    fetcher = PhotoFetcher([HOST], timeout_s=5.0, max_image_bytes=1000, resolve_host=rebinding)
    assert (await outcome_of(fetcher))[0] == "unreachable"
    assert [address[0] for address in connects] == [PUBLIC]
    # The next photo of that host meets the second answer.
    assert (await outcome_of(fetcher))[0] == "forbidden_address"
    assert [address[0] for address in connects] == [PUBLIC]


async def test_this_machines_own_names_are_refused(connects: Connected) -> None:
    """Through the real resolver: what `/etc/hosts` calls localhost."""
    assert set(await resolve("localhost")) <= {"127.0.0.1", "::1"}

    async def as_localhost(host: str) -> Sequence[str]:
        return await resolve("localhost")

    fetcher = PhotoFetcher([HOST], timeout_s=5.0, max_image_bytes=1000, resolve_host=as_localhost)
    assert (await outcome_of(fetcher))[0] == "forbidden_address"
    assert connects == []


async def test_what_is_not_allowed_is_neither_looked_up_nor_connected_to(connects: Connected, network: Network) -> None:
    fetcher = PhotoFetcher([HOST], timeout_s=5.0, max_image_bytes=1000, resolve_host=network.resolve)
    for url in [*FORBIDDEN, *(url.replace("images.example.com", HOST) for url in FORBIDDEN if url.startswith("https://127"))]:
        with pytest.raises(ForbiddenUrlError):
            fetcher.source_of(url)
    assert network.looked_up == []
    assert connects == []
