"""One process that serves: open the models, answer on a socket that somebody else has bound, stop in order.

Owns uvicorn's configuration and the order of start and stop. Refuses to know whether it is one of several workers, arguments
and exit codes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable

import uvicorn

from app.generation import WorkerLink
from app.lifespan import open_configured_engine
from app.main import create_app
from app.protocol import ItemlensHttpProtocol
from app.settings import Settings


def serve(
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[list[str]], None],
    *,
    parent_gone: int | None = None,
    link: WorkerLink | None = None,
) -> None:
    """Open the models and answer until SIGTERM or SIGINT, or until the file descriptor `parent_gone` is at its end.

    `link`: the parent says which models to load and when to switch; without one this process watches the models folder itself,
    and looks at once on SIGUSR1.

    `on_ready` gets the models that are served, as "name/version", once connections are answered. Raises `BundleError` when
    nothing can be served and KeyboardInterrupt when stopped while the models are loading.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, listener, on_ready, parent_gone, link))


class _AnnouncingServer(uvicorn.Server):
    """Says that it listens once it does, and not before."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


async def _serve(
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[list[str]], None],
    parent_gone: int | None,
    link: WorkerLink | None,
) -> None:
    if parent_gone is not None:
        # Nobody would stop or replace a worker without its parent, and it would hold the port.
        asyncio.get_running_loop().add_reader(parent_gone, os.kill, os.getpid(), signal.SIGTERM)
    if link is not None:
        engine = await link.open_engine(settings.engine_settings())
    else:
        engine = await open_configured_engine(settings)
        if hasattr(signal, "SIGUSR1"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, engine.look_for_models)
    app = create_app(settings, engine=engine)
    config = uvicorn.Config(
        app,
        http=ItemlensHttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.graceful_shutdown_s,
    )
    # The server handles these itself and raises them again once it has stopped: that stop is a success.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: None)
    models = [f"{model.name}/{model.version}" for model in engine.models()]
    await _AnnouncingServer(config, lambda: on_ready(models)).serve(sockets=[listener])


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists (it has no wheels for Windows), else the standard loop."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop
