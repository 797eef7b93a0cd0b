"""`python -m app`: read the settings, bind, load the models, serve.

Owns exit codes and what the operator reads when something is wrong: one clear line, never a traceback. 0 after a normal
stop, 1 when the service cannot start (port taken, no model that passes its checks), 2 for a bad setting or argument.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable
from difflib import get_close_matches
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn

from app import __version__
from app.engine.errors import BundleError
from app.lifespan import open_configured_engine
from app.logging import configure_logging
from app.main import create_app
from app.protocol import ItemlensHttpProtocol
from app.settings import PREFIX, Settings, SettingsError, allowed, load_settings, settings_table

log = structlog.stdlib.get_logger("itemlens")

_EXAMPLES = """examples:
  python -m app
  ITEMLENS_PORT=9000 ITEMLENS_MODELS_DIR=/srv/models python -m app
  ITEMLENS_HOST=0.0.0.0 ITEMLENS_API_KEYS_SHA256=$(printf %s "$KEY" | sha256sum | cut -d' ' -f1) python -m app

settings (environment variables):
"""


class _StartError(Exception):
    """The service cannot start; the message is one line for the operator."""


def main(arguments: list[str] | None = None) -> int:
    """Run until stopped; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Serve Itemlens: recognise shop items from a photo, a title, or both.",
        epilog=_EXAMPLES + _settings_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--settings-table", action="store_true", help="print the settings as a Markdown table and exit")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(arguments)
    if options.settings_table:
        sys.stdout.write(settings_table())
        return 0
    try:
        settings = load_settings()
        settings.key_digests()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging(settings.log_level, settings.log_format)
    _warn_of_unknown_variables()
    # Until uvicorn takes the signal over: a container's first process has no default action, and would load on.
    signal.signal(signal.SIGTERM, _stop_loading)
    try:
        with _bind(settings) as listener, asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, listener))
    except (_StartError, BundleError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    except KeyboardInterrupt:
        # Only while the models are loading; afterwards the server stops in order.
        return 130
    return 0


def _stop_loading(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


class _AnnouncingServer(uvicorn.Server):
    """Says that it listens once it does, and not before."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


async def _serve(settings: Settings, listener: socket.socket) -> None:
    engine = await open_configured_engine(settings)
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

    def announce() -> None:
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        log.info(
            "listening",
            url=f"http://{host}:{port}",
            docs=f"http://{host}:{port}/docs" if settings.docs_enabled else None,
            models=[f"{model.name}/{model.version}" for model in engine.models()],
        )

    if not settings.key_digests() and not _is_loopback(settings.host):
        log.warning("open_to_the_network", advice=f"anyone who reaches this host may call; set {PREFIX}API_KEYS_SHA256")
    # The server handles these itself and raises them again once it has stopped: that stop is a success.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: None)
    await _AnnouncingServer(config, announce).serve(sockets=[listener])
    log.info("stopped")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists (it has no wheels for Windows), else the standard loop."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


def _bind(settings: Settings) -> socket.socket:
    """Take the port before the models are loaded: a taken one is then known at once. Raises `_StartError`."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        reason = (error.strerror or str(error)).lower()
        raise _StartError(
            f"Cannot listen on {settings.host} port {settings.port}: {reason}. "
            f"Stop what uses it, or set {PREFIX}HOST or {PREFIX}PORT."
        ) from None
    listener.setblocking(False)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _warn_of_unknown_variables() -> None:
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            # A warning only: Kubernetes sets variables of this prefix for a Service called itemlens.
            log.warning("unknown_setting", variable=name, did_you_mean=next(iter(get_close_matches(name, known, n=1)), None))


def _settings_list() -> str:
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        shown = "unset" if default in (None, ()) else default
        lines.append(f"  {PREFIX}{name.upper()} = {shown}   ({allowed(name).replace('`', '')})\n      {field.description}\n")
    return "".join(lines).replace("%", "%%")


if __name__ == "__main__":
    sys.exit(main())
