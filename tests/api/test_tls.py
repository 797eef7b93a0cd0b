"""TLS from two files: which versions, what is said of bad files, and a certificate that changes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings, SettingsError
from app.tls import load_certificate, tls_context
from tests.api.certificates import make_certificate
from tests.api.listening import Client, connected, is_whole, listening, request, serving
from tests.conftest import FakeEngine

LIVE = b"GET /health/live HTTP/1.1\r\nHost: itemlens\r\n\r\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def settings_for(certificate: Path | None, key: Path | None, **others: Any) -> Settings:
    return Settings(tls_certificate_file=certificate, tls_key_file=key, **others)


def client_context(certificate: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    if version is not None:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")  # a modern library refuses old versions itself otherwise
    return context


@pytest.fixture(params=["uvloop", pytest.param("asyncio", marks=pytest.mark.slow)])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return ("asyncio", {"use_uvloop": request.param == "uvloop"})


@pytest.fixture
async def port(pair: tuple[Path, Path]) -> AsyncIterator[int]:
    settings = settings_for(*pair, slow_client_timeout_s=0.3)
    async with listening(settings, context=tls_context(settings)) as port:
        yield port


async def ask_over(port: int, context: ssl.SSLContext) -> tuple[str, bytes]:
    """The TLS version and the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    client = Client(reader, writer)
    answer = await client.ask(LIVE)
    version = str(writer.get_extra_info("ssl_object").version())
    writer.close()
    return version, answer


@pytest.mark.anyio
async def test_1_2_and_1_3_are_spoken_with_transport_security(port: int, pair: tuple[Path, Path]) -> None:
    for wanted, expected in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (None, "TLSv1.3")):
        version, answer = await ask_over(port, client_context(pair[0], wanted))
        assert version == expected
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"strict-transport-security: max-age=" in answer


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_older_versions_and_plain_text_are_refused(port: int, pair: tuple[Path, Path]) -> None:
    for old in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask_over(port, client_context(pair[0], old))
    async with connected(port) as client:
        client.send(LIVE)
        assert b"HTTP/" not in await client.receive()


@pytest.mark.anyio
async def test_a_handshake_that_does_not_come_is_closed_in_time(port: int) -> None:
    async with connected(port) as client:
        began_s = asyncio.get_running_loop().time()
        await client.receive()
        assert asyncio.get_running_loop().time() - began_s < 2


@pytest.mark.anyio
async def test_unfinished_handshakes_count_as_connections_and_hold_nobody_up(pair: tuple[Path, Path]) -> None:
    settings = settings_for(*pair, max_connections=8)
    async with listening(settings, context=tls_context(settings)) as port, AsyncExitStack() as stack:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(pair[0]))
        kept = Client(reader, writer)
        assert (await kept.ask(LIVE)).startswith(b"HTTP/1.1 200 ")
        silent = [await stack.enter_async_context(connected(port)) for _ in range(40)]
        assert (await ask_over(port, client_context(pair[0])))[1].startswith(b"HTTP/1.1 200 ")
        assert [await client.is_open() for client in silent].count(True) <= 7
        assert (await kept.ask(LIVE)).startswith(b"HTTP/1.1 200 ")
        writer.transport.abort()


@pytest.mark.anyio
async def test_who_is_too_many_is_told_so_over_tls_too(pair: tuple[Path, Path]) -> None:
    settings = settings_for(*pair, max_connections=8)
    async with listening(settings, context=tls_context(settings)) as port:
        busy = [await asyncio.open_connection("127.0.0.1", port, ssl=client_context(pair[0])) for _ in range(8)]
        for _, writer in busy:
            writer.write(b"GET / HT")
        await asyncio.sleep(0.05)
        _, answer = await ask_over(port, client_context(pair[0]))
        assert answer.startswith(b"HTTP/1.1 503 ")
        for _, writer in busy:
            writer.transport.abort()


@pytest.mark.anyio
async def test_who_is_shaking_hands_when_the_service_stops_is_answered(pair: tuple[Path, Path]) -> None:
    settings, incoming, outgoing = settings_for(*pair), ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(pair[0]).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    async with serving(settings, context=tls_context(settings)) as (port, server), connected(port) as client:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        client.send(outgoing.read())
        incoming.write(await client.receive(bool))
        server.should_exit = True
        await asyncio.sleep(0.4)
        tls.do_handshake()
        tls.write(LIVE)
        client.send(outgoing.read())
        incoming.write(await client.receive())
        answer = tls.read(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.anyio
async def test_a_slow_head_is_closed_in_time_over_tls_too(port: int, pair: tuple[Path, Path]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(pair[0]))
    writer.write(b"GET / HT")
    assert (await Client(reader, writer).receive()).startswith(b"HTTP/1.1 408 ")
    writer.close()


def test_bad_files_are_refused_with_one_clear_line(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    other_certificate, other_key = make_certificate(tmp_path, "other", passphrase="secret-CANARY")
    _, plain_key = make_certificate(tmp_path, "third")
    garbage = tmp_path / "garbage"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nCANARY\n-----END CERTIFICATE-----\n")
    for files, variable, said in (
        ((certificate, None), "TLS_CERTIFICATE_FILE", "set ITEMLENS_TLS_KEY_FILE too"),
        ((None, key), "TLS_KEY_FILE", "set ITEMLENS_TLS_CERTIFICATE_FILE too"),
        ((tmp_path / "none", key), "TLS_CERTIFICATE_FILE", "no such file"),
        ((certificate, tmp_path), "TLS_KEY_FILE", "is a directory"),
        ((key, key), "TLS_CERTIFICATE_FILE", "not a PEM file with a certificate"),
        ((certificate, certificate), "TLS_KEY_FILE", "not a PEM file with a private key"),
        ((certificate, plain_key), "TLS_KEY_FILE", "not the key of the certificate"),
        ((other_certificate, other_key), "TLS_KEY_FILE", "has a passphrase"),
        ((garbage, key), "TLS_CERTIFICATE_FILE", "cannot be used"),
    ):
        with pytest.raises(SettingsError) as caught:
            tls_context(settings_for(*files))
        message = str(caught.value)
        assert message.startswith(f"ITEMLENS_{variable}: "), message
        assert said in message
        assert "CANARY" not in message
        assert "\n" not in message


@pytest.mark.anyio
async def test_a_refusal_reaches_a_client_that_is_still_sending_over_tls_too(pair: tuple[Path, Path]) -> None:
    engine = FakeEngine()
    engine.overloaded = True
    settings, body = settings_for(*pair), b" " * 1_000_000
    async with listening(settings, engine, tls_context(settings)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(pair[0]))
        writer.write(request("/v1/classify", body, "Content-Type: application/json", "Connection: close")[: -len(body)])
        for start in range(0, len(body), 100_000):
            writer.write(body[start : start + 100_000])
            await writer.drain()
            await asyncio.sleep(0.01)
        assert (await Client(reader, writer).receive(is_whole)).startswith(b"HTTP/1.1 503 ")
        writer.transport.abort()


def test_without_files_there_is_no_tls() -> None:
    assert tls_context(Settings()) is None


@pytest.mark.anyio
async def test_a_renewed_certificate_is_used_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    settings = settings_for(certificate, key)
    context = tls_context(settings)
    assert context is not None
    async with listening(settings, context=context) as port:
        old = client_context(certificate)
        certificate.write_bytes(make_certificate(tmp_path, "other")[0].read_bytes())
        with pytest.raises(SettingsError, match="not the key"):
            load_certificate(context, settings)
        assert (await ask_over(port, old))[1].startswith(b"HTTP/1.1 200 ")
        make_certificate(tmp_path)
        load_certificate(context, settings)
        assert (await ask_over(port, client_context(certificate)))[1].startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ssl.SSLError):
            await ask_over(port, old)
