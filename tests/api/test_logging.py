"""Logging never fails, and never tells of what is no fault."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog

from app.logging import configure_logging


@pytest.fixture(autouse=True)
def _json_lines() -> Iterator[None]:
    configure_logging("info", "json")
    yield
    structlog.reset_defaults()


def test_a_name_that_is_no_text_is_logged_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.get_logger("test").error("refused", reason=os.fsdecode(b"bad\xff"), count=1)
    [line] = capsys.readouterr().out.splitlines()
    event = json.loads(line)
    assert (event["event"], event["count"], event["level"]) == ("refused", 1, "error")
    assert event["reason"].startswith("bad")


def test_a_request_that_an_orderly_stop_ends_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    server = logging.getLogger("uvicorn.error")
    for error in (asyncio.CancelledError(), ValueError("CANARY")):
        try:
            raise error
        except BaseException:
            server.error("Exception in ASGI application\n", exc_info=True)
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["exception"] == "ValueError"
    assert "CANARY" not in line


def test_every_line_says_when_how_bad_and_whose(capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(UTC)
    logger = structlog.get_logger("test")
    logger.warning("careful")
    try:
        raise ValueError("CANARY")
    except ValueError:
        logger.exception("failed")
    logging.getLogger("library").warning("odd")
    after = datetime.now(UTC)
    careful, failed, odd = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [(event["level"], event["logger"]) for event in (careful, failed)] == [("warning", "test"), ("error", "test")]
    assert (odd["level"], odd["logger"], odd["event"]) == ("warning", "library", "odd")
    assert before <= datetime.fromisoformat(careful["timestamp"]) <= datetime.fromisoformat(failed["timestamp"])
    assert datetime.fromisoformat(failed["timestamp"]) <= datetime.fromisoformat(odd["timestamp"]) <= after
    assert len(careful["timestamp"]) == len(odd["timestamp"]) == len("2026-01-31T12:00:00.000000Z")
    assert (failed["exception"], "CANARY" in str(failed), "exc_info" in failed) == ("ValueError", False, False)
