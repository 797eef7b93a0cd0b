"""One process that serves: open the models, answer on a socket that somebody else has bound, stop in order.

Owns uvicorn's configuration and the order of start and stop. Refuses to know whether it is one of several workers, arguments
and exit codes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Protocol, cast

import structlog
import uvicorn
from fastapi import FastAPI

from app.api_keys import ApiKeys
from app.connection_limits import limited_protocol
from app.connection_room import ConnectionRoom
from app.engine.errors import is_want_of_threads
from app.engine.priority import take_turns
from app.generation import WorkerLink
from app.lifespan import open_configured_engine
from app.listeners import affordable_connections
from app.main import create_app
from app.quota import QuotaTable
from app.receiver import Receiver, receiving
from app.settings import Settings, SettingsError
from app.tls import load_certificate, tls_context
from app.tls_handshakes import TLS_SHUTDOWN_S, Handshakes, TlsListener

log = structlog.stdlib.get_logger("itemlens")

BEAT_S = 1.0
_LAST_WORDS_S = 1.0
"""How long requests that are ended may take to say so."""
_COLLECT_AFTER_OBJECTS = 3_000
"""About what the requests under way keep alive. At Python's 700 a busy worker looks for cycles several times a second, and
finds none: no request leaves any (tests/api/test_garbage.py, tests/engine/test_garbage.py). What it looks through is in use."""


class ListenError(Exception):
    """Since the socket was bound another service has begun to listen there; the message is the system's reason."""


class NoThreadsError(Exception):
    """The system lets this process start fewer threads than it needs to serve; the message is one line for the operator."""

    def __init__(self) -> None:
        super().__init__(
            "Cannot start a thread: the system allows no more. Raise the limit on threads and processes "
            "(`ulimit -u`, a container's `pids_limit`) or on memory (`ulimit -v`)."
        )


class Parent(Protocol):
    """Who started this process, if it is a worker."""

    gone: int
    """A file descriptor that is at its end when the parent is gone."""

    def beat(self) -> None:
        """Say that the event loop runs."""


def serve(
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[list[str]], None],
    *,
    keys: ApiKeys | None = None,
    quotas: QuotaTable | None = None,
    parent: Parent | None = None,
    link: WorkerLink | None = None,
) -> None:
    """Open the models and answer until SIGTERM or SIGINT, or until the parent is gone.

    `on_ready` gets the models that are served, as "name/version", once connections are answered. `keys`, `quotas`: shared with
    other workers; None makes them from the settings. `link`: the parent says which models to load and when to switch; without
    one this process watches the models folder itself, and looks at once on SIGUSR1. Raises `BundleError` when nothing can be
    served, `SettingsError` for a certificate or a key file that cannot be used, `ListenError`, `NoThreadsError`, and
    KeyboardInterrupt when it is stopped while the models are loading.
    """
    is_ready = False

    def ready(models: list[str]) -> None:
        nonlocal is_ready
        is_ready = True
        on_ready(models)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, listener, ready, keys, quotas, parent, link))
    except RuntimeError as error:
        # Around the runner as well: its own end takes a thread, and fails over whatever ended the start.
        if is_ready or not is_want_of_threads(error):
            raise
        raise NoThreadsError from None


class _Server(uvicorn.Server):
    """Says that it listens once it does, and not before, and that it stops; bounds what TLS waits for; lets requests
    that outlast the grace time be answered."""

    def __init__(
        self,
        config: uvicorn.Config,
        announce: Callable[[], None],
        announce_stop: Callable[[], None],
        *,
        room: ConnectionRoom,
        tls_handshake_s: float,
        grace_s: float,
    ) -> None:
        super().__init__(config)
        self._announce = announce
        self._announce_stop = announce_stop
        self._room = room
        self._tls_handshake_s = tls_handshake_s
        self._tls_listeners: list[TlsListener] = []
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.ssl is None:
            await super().startup(sockets)
        else:
            await self._listen_for_tls(sockets or [], self.config.ssl)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._announce_stop()
        await super().shutdown(sockets)

    async def _wait_tasks_to_complete(self) -> None:
        """As the base class does, whose own limit calls what outlasts it an error, and does not wait for its last words."""
        try:
            async with asyncio.timeout(self._grace_s):
                for listener in self._tls_listeners:
                    await listener.wait_closed()
                await super()._wait_tasks_to_complete()
        except TimeoutError:
            tasks = list(self.server_state.tasks)
            if not tasks:  # connections alone
                return
            log.warning("requests_ended", count=len(tasks), advice="they outlasted the time in which the service has to stop")
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_LAST_WORDS_S)

    async def _listen_for_tls(self, sockets: list[socket.socket], context: ssl.SSLContext) -> None:
        """As the base class does, which counts no handshake and leaves a minute for each, and half of one for each farewell."""
        await self.lifespan.startup()
        if sys.platform == "win32":  # whose loop cannot watch a listener: there handshakes are bounded in time alone
            serve_tls = asyncio.get_running_loop().create_server
            bounds = {"ssl_handshake_timeout": self._tls_handshake_s, "ssl_shutdown_timeout": TLS_SHUTDOWN_S}
            make, backlog = self._new_connection, self.config.backlog
            self.servers = [await serve_tls(make, sock=one, ssl=context, backlog=backlog, **bounds) for one in sockets]
        else:
            handshakes = Handshakes(context, self._room, self._new_connection, self._tls_handshake_s)
            backlog = self.config.backlog
            self._tls_listeners = [TlsListener(listener, handshakes, backlog=backlog) for listener in sockets]
            self.servers = cast("list[asyncio.Server]", self._tls_listeners)
        self.started = True

    def _new_connection(self) -> Receiver:
        make = cast("Callable[..., Receiver]", self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def configured_server(
    settings: Settings, app: FastAPI, context: ssl.SSLContext | None, announce: Callable[[], None], *, is_worker: bool = False
) -> uvicorn.Server:
    """Uvicorn with everything set; `announce` is called once it listens. `is_worker`: that it stops does not mean that the
    service does, which the parent says (SIGUSR2)."""
    room = ConnectionRoom(affordable_connections(settings.max_connections))
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", receiving(limited_protocol(settings, room=room, gate=app.state.gate))),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here depends on the client's address or scheme as a proxy tells them, so nobody can forge them.
        proxy_headers=False,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
        timeout_keep_alive=settings.keep_alive_s,
    )

    def announce_stop() -> None:
        app.state.is_stopping = app.state.is_stopping or not is_worker

    return _Server(
        config,
        announce,
        announce_stop,
        room=room,
        tls_handshake_s=settings.slow_client_timeout_s,
        grace_s=settings.graceful_shutdown_s,
    )


async def _serve(
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[list[str]], None],
    keys: ApiKeys | None,
    quotas: QuotaTable | None,
    parent: Parent | None,
    link: WorkerLink | None,
) -> None:
    if parent is not None:
        asyncio.get_running_loop().add_reader(parent.gone, _stop_without_parent, parent)
    context = tls_context(settings)
    if link is not None:
        engine = await link.open_engine(settings.engine_settings())
    else:
        engine = await open_configured_engine(settings)
        if hasattr(signal, "SIGUSR1"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, engine.look_for_models)
    take_turns()
    app = create_app(settings, engine=engine, keys=keys, quotas=quotas)
    models = [f"{model.name}/{model.version}" for model in engine.models()]
    # What start-up made stays for good; a collection that looks through it stops all requests for tens of milliseconds.
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
    server = configured_server(settings, app, context, lambda: on_ready(models), is_worker=parent is not None)
    if parent is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, setattr, app.state, "is_stopping", True)
    # The server handles these itself and raises them again once it has stopped: that stop is a success.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: None)
    if parent is None and hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _renew, context, settings)
    try:
        listener.listen(server.config.backlog)  # the server does it again, too late to say in one line that it cannot
    except OSError as error:
        await engine.close()
        raise ListenError((error.strerror or str(error)).lower()) from None
    beating = asyncio.create_task(_beat(parent)) if parent is not None else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if beating is not None:
            beating.cancel()


def _stop_without_parent(parent: Parent) -> None:
    """Nobody would stop or replace a worker without its parent, and it would hold the port."""
    # What is at its end stays so: once is enough, or the loop would do nothing else until the last request is answered.
    asyncio.get_running_loop().remove_reader(parent.gone)
    os.kill(os.getpid(), signal.SIGTERM)


async def _beat(parent: Parent) -> None:
    while True:
        parent.beat()
        await asyncio.sleep(BEAT_S)


def _renew(context: ssl.SSLContext | None, settings: Settings) -> None:
    """SIGHUP for a service that is one process: it cannot be replaced, but its certificate can."""
    if context is None:
        log.warning("nothing_to_renew", advice="with several workers, SIGHUP replaces them one by one")
        return
    try:
        load_certificate(context, settings)
    except SettingsError as error:
        log.error("certificate_kept", reason=str(error))
    else:
        log.info("certificate_renewed")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists (it has no wheels for Windows), else the standard loop."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop
