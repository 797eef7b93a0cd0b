"""Logs: one line an event, JSON unless standard output is a terminal.

Owns format and levels. structlog's own events and those of libraries take two ways to the same lines. Keeps content out by
construction: a traceback is reduced to the exception's type and the places it passed through, because an exception's
message may repeat what a client sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from functools import lru_cache
from typing import Literal

import structlog
from pydantic_core import to_json
from structlog.types import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]


def _write_line(line: str) -> None:
    """To whatever standard output is at the time."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class _StandardOutput(logging.Handler):
    """Where the events of libraries end, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write_line(self.format(record))
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """The base class would print the record's arguments to standard error; a lost line is the lesser evil."""


def place_only(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by the exception's type and its innermost frames ("app/edge.py:80 __call__")."""
    info = event.pop("exc_info", None)
    error: BaseException | None = None
    if info is True:
        error = sys.exc_info()[1]
    elif isinstance(info, BaseException):
        error = info
    elif isinstance(info, tuple):
        error = info[1]
    event.pop("stack_info", None)
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)[-12:]
        event["exception"] = type(error).__qualname__
        event["frames"] = [f"{'/'.join(f.filename.split('/')[-3:])}:{f.lineno} {f.name}" for f in frames]
    return event


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Whether it tells of more than a request that an orderly stop has ended."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class _LineLogger:
    """Where structlog's events end, one line each."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        try:
            _write_line(line)
        except (OSError, ValueError):  # nobody reads any more; a lost line is the lesser evil
            return

    debug = info = warning = warn = error = critical = exception = msg


def _utc_now() -> str:
    """As "2026-01-31T12:00:00.000000Z"."""
    now_s, micros = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_utc_second(now_s)}.{micros:06d}Z"


@lru_cache(maxsize=2)
def _utc_second(now_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s))


def _completed(logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
    """With what every event says beside its own. One processor in place of four: each request has an event.
    `logger`: None for a library's event, which has its logger's name already."""
    event["level"] = "error" if level == "exception" else level
    if logger is not None:
        event["logger"] = logger.name
    event["timestamp"] = _utc_now()
    return place_only(logger, level, event) if "exc_info" in event or "stack_info" in event else event


def _json_line(_: WrappedLogger, __: str, event: EventDict) -> str:
    try:
        return to_json(event, fallback=repr).decode()
    except ValueError:  # half of a character, as names of files may hold; whoever logs must not fail for it
        return json.dumps(event, default=repr)


def configure_logging(level: Level = "info", log_format: Format = "auto") -> None:
    """Send structlog's and the standard library's events to standard output, one line each."""
    console = log_format == "console" or (log_format == "auto" and sys.stdout.isatty())
    renderer: Processor = structlog.dev.ConsoleRenderer() if console else _json_line
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(allow=[]), _completed],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        keep_exc_info=False,
        keep_stack_info=False,
    )
    handler = _StandardOutput()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Libraries may print what they parse at debug level; only our own events may go below warning.
    for noisy in ("asyncio", "PIL", "httpx", "urllib3", "tensorflow", "absl"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    # Warns of every malformed form by the byte at which it is: content of a request, in a line that costs its sender nothing.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)
    for name in ("uvicorn", "uvicorn.error"):
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = True
        # Its start-up chatter repeats what the service says itself.
        server.setLevel(logging.WARNING)
        server.filters[:] = [_is_no_cancellation]
    logging.getLogger("uvicorn.access").disabled = True
    # Not through the standard library: its records and formatters would double what a request's one event costs.
    structlog.configure(
        processors=[_completed, renderer],
        logger_factory=_LineLogger,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
