"""`python -m app` as an operator meets it: its help, its exit codes, its one-line failures."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import main
from app.engine.errors import BundleError
from app.settings import Settings
from app.settings_reference import settings_table
from tests.conftest import FakeEngine

_SERVE = """
import sys
import app.__main__ as entry
import app.server
from tests.conftest import FakeEngine

async def open_fake(settings):
    return FakeEngine()

app.server.open_configured_engine = open_fake
sys.exit(entry.main([]))
"""


def test_the_settings_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--settings-table"]) == 0
    assert capsys.readouterr().out == settings_table()


def test_help_lists_every_setting_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "ITEMLENS_PORT=9000" in text
    for name in Settings.model_fields:
        assert f"ITEMLENS_{name.upper()} = " in text


def test_a_bad_setting_is_one_line_and_exit_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ITEMLENS_PORT", "tcp://10.0.0.1:8000")
    assert main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ITEMLENS_PORT: ")
    assert "enableServiceLinks" in error
    assert error.count("\n") == 1


def test_a_refused_bundle_is_one_line_and_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(settings: Settings) -> FakeEngine:
        raise BundleError("models/fashion/1: wrong hash of\nlabels.json")

    monkeypatch.setenv("ITEMLENS_PORT", "0")
    monkeypatch.setenv("ITEMLENS_WORKERS", "1")
    monkeypatch.setattr("app.server.open_configured_engine", refuse)
    assert main([]) == 1
    assert capsys.readouterr().err == "models/fashion/1: wrong hash of labels.json\n"


def test_a_taken_port_is_one_line_and_exit_1_before_the_models_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def never(settings: Settings) -> FakeEngine:
        raise AssertionError("the models were loaded")

    monkeypatch.setattr("app.server.open_configured_engine", never)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("ITEMLENS_PORT", str(port))
        assert main([]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"Cannot listen on 127.0.0.1 port {port}: ")
    assert "ITEMLENS_PORT" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])  # noqa: S104
def test_it_serves_over_a_socket_warns_when_open_and_stops_in_order(host: str, warns: bool) -> None:
    root = Path(__file__).parent.parent.parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ITEMLENS_")}
    environment |= {"ITEMLENS_PORT": "0", "ITEMLENS_HOST": host, "ITEMLENS_PROT": "1", "PYTHONUNBUFFERED": "1"}
    # One process: several are told what to load by their parent, and an engine that is given them cannot listen to it.
    environment["ITEMLENS_WORKERS"] = "1"
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            events: list[dict[str, Any]] = []
            while not events or events[-1]["event"] != "listening":
                events.append(json.loads(process.stdout.readline()))
            port = int(events[-1]["url"].rsplit(":", 1)[1])
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/classify",
                data=b'{"items": [{"text": "red"}]}',
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
                assert response.status == 200
                assert response.headers["Server"] is None
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=10)
        finally:
            process.kill()
    events += [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0, error
    assert error == ""
    names = [event["event"] for event in events]
    assert ("open_to_the_network" in names) is warns
    assert {"event": "unknown_setting", "variable": "ITEMLENS_PROT", "did_you_mean": "ITEMLENS_PORT"}.items() <= events[
        0
    ].items()
    assert names[-2:] == ["request", "stopped"]
