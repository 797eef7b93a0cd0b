"""`python -m app`: read the settings, bind, load the models, serve.

Owns the choice between one process and several, exit codes, and what the operator reads when something is wrong: one clear
line, never a traceback. 0 after a normal stop, 1 when the service cannot start (port taken, no model that passes its
checks), 2 for a bad setting or argument.
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import os
import signal
import socket
import sys
from contextlib import ExitStack
from difflib import get_close_matches
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import structlog

from app import __version__
from app.api_keys import ApiKeys
from app.engine.errors import BundleError
from app.listeners import Listener, bind_listeners
from app.logging import configure_logging
from app.settings import PREFIX, Settings, SettingsError, load_settings
from app.settings_reference import allowed, settings_table
from app.tls import tls_context

if TYPE_CHECKING:
    from app.quota import QuotaTable

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
    _open_closed_streams()
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
        keys = settings.api_keys()
        tls_context(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    configure_logging(settings.log_level, settings.log_format)
    _warn_of_unknown_variables()
    # Until uvicorn takes the signal over: a container's first process has no default action, and would load on.
    signal.signal(signal.SIGTERM, _stop_loading)
    for name in ("SIGHUP", "SIGUSR1"):
        # They mean "renew" and "look at the models folder", and must not end a service that does not listen for them yet.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        if not _is_loopback(settings.host):
            _warn_of_an_open_door(settings, keys)
        with ExitStack() as stack:
            listeners = [stack.enter_context(listener) for listener in _bind(settings, settings.effective_workers)]
            if len(listeners) > 1:
                return _serve_with_workers(settings, keys, listeners)
            _serve_alone(settings, keys, listeners[0])
    except (_StartError, BundleError, SettingsError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    except KeyboardInterrupt:
        # Only while the models are loading; afterwards the server stops in order.
        return 130
    return 0


def _open_closed_streams() -> None:
    """Started with `>&-` the service has no standard output, and the next file or socket would take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in this order each takes its own place
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (as long as the process)


def _stop_loading(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _serve_alone(settings: Settings, keys: ApiKeys, listener: socket.socket) -> None:
    # Threads of it would fight with the runtime's. And where none can be started OpenBLAS sends this process SIGINT, which
    # reads as Ctrl-C; our own threads fail with a word for the operator.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from app.server import ListenError, NoThreadsError, serve

    try:
        serve(settings, listener, lambda models: _announce(settings, listener, models), keys=keys)
    except NoThreadsError as error:
        raise _StartError(str(error)) from None
    except ListenError as error:
        raise _StartError(_cannot_listen(settings, str(error))) from None
    log.info("stopped")


def _serve_with_workers(settings: Settings, keys: ApiKeys, listeners: list[Listener]) -> int:
    """Several processes, one per listener; returns the exit code."""
    # Each worker computes on its own core; a pool of linear algebra threads in each would only fight over them. Also keeps the
    # parent at one thread, which a fork needs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Imported before the fork: the workers share these pages, and a replacement starts in the time that its models need.
    import app.engine.engine  # noqa: F401
    from app.generation import GenerationSwitch
    from app.metrics_memory import MetricsMemory
    from app.server import ListenError, NoThreadsError, serve
    from app.supervisor import Supervisor
    from app.worker_link import ParentLink, WorkerFailed

    # No collection in a worker writes into these pages, which would give it a copy of each.
    gc.freeze()
    switch = GenerationSwitch(settings.engine_settings())
    quotas = _shared_quotas(settings.max_items_per_minute_per_key)

    def work(listener: socket.socket, parent: ParentLink) -> int:
        signal.signal(signal.SIGTERM, _stop_loading)

        def ready(models: list[str]) -> None:
            parent.ready(" ".join(models))

        try:
            serve(settings, listener, ready, keys=keys, quotas=quotas, parent=parent, link=switch.worker_link())
        except (BundleError, SettingsError, NoThreadsError) as error:
            raise WorkerFailed(str(error)) from None
        except ListenError as error:
            raise WorkerFailed(_cannot_listen(settings, str(error))) from None
        return 0

    supervisor = Supervisor(
        listeners,
        work,
        grace_s=settings.graceful_shutdown_s,
        start_timeout_s=settings.worker_start_timeout_s,
        silence_timeout_s=settings.worker_silence_timeout_s,
        on_ready=lambda models: _announce(settings, listeners[0], models.split()),
        switch=switch,
        counts=MetricsMemory(len(listeners)),
        on_tick=keys.refresh,
    )
    try:
        code = supervisor.run()
    finally:
        if quotas is not None:
            quotas.close()
    if code == 0:
        log.info("stopped")
    return code


def _shared_quotas(items_per_minute: int | None) -> QuotaTable | None:
    from app.quota import QuotaTable

    if not items_per_minute:
        return None
    try:
        return QuotaTable(items_per_minute, is_shared=True)
    except OSError:
        raise _StartError(
            "Several workers share their quotas by way of a temporary file, and none can be made. "
            f"Let TMPDIR name a writable folder (a tmpfs will do), or set {PREFIX}WORKERS=1."
        ) from None


def _announce(settings: Settings, listener: socket.socket, models: list[str]) -> None:
    port = listener.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls_certificate_file is not None else "http"
    log.info(
        "listening",
        url=f"{scheme}://{host}:{port}",
        docs=f"{scheme}://{host}:{port}/docs" if settings.docs_enabled else None,
        models=models,
    )


def _bind(settings: Settings, workers: int) -> list[Listener]:
    """Take the port before the models are loaded: a taken one is then known at once. Raises `_StartError`."""
    try:
        return bind_listeners(settings.host, settings.port, workers)
    except (OSError, UnicodeError) as error:
        reason = "it is no host name" if isinstance(error, UnicodeError) else (error.strerror or str(error)).lower()
        raise _StartError(_cannot_listen(settings, reason)) from None


def _cannot_listen(settings: Settings, reason: str) -> str:
    where = f"{settings.host} port {settings.port}"
    return f"Cannot listen on {where}: {reason}. Stop what uses it, or set {PREFIX}HOST or {PREFIX}PORT."


def _warn_of_an_open_door(settings: Settings, keys: ApiKeys) -> None:
    if not keys:
        log.warning("open_to_the_network", advice=f"anyone who reaches this host may call; set {PREFIX}API_KEYS_SHA256")
    elif settings.tls_certificate_file is None:
        log.info("keys_in_plain_text", advice=f"let a proxy on a trusted network end TLS, or set {PREFIX}TLS_CERTIFICATE_FILE")


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
