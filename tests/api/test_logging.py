"""Logging never fails, and never tells of what is no fault."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator

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
