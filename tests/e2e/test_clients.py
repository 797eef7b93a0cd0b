"""The clients of docs/clients, run as a reader would run them, against the running service with the shipped models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.e2e.service import ROOT, Service

CLIENTS = ROOT / "docs" / "clients"


def run_client(service: Service, command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {**os.environ, "ITEMLENS_URL": service.url, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "command",
    [[sys.executable, str(CLIENTS / "itemlens.py")], ["node", str(CLIENTS / "itemlens.mjs")]],
    ids=["python", "javascript"],
)
def test_a_client_gets_answers_and_sees_what_failed(shipped_service: Service, command: list[str]) -> None:
    output = run_client(shipped_service, command)
    lines = output.splitlines()
    assert any(line.startswith("sku-1 articleType ") for line in lines)
    assert "sku-3 failed: empty_item" in lines
    assert any(line.startswith("space fashion-") for line in lines)
    assert any(line.startswith("refused: ") and "empty_item" in line for line in lines)


def test_the_shell_client_gets_answers_and_sees_what_failed(shipped_service: Service) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    output = run_client(shipped_service, ["bash", str(CLIENTS / "itemlens.sh")])
    classified, batch, embedded, refused = (part.strip() for part in output.split("==")[1:])
    assert '"articleType":{"label":"' in classified
    assert '"status":"ok"' in batch
    assert '"code":"empty_item"' in batch
    assert '"dimensions":32' in embedded
    assert '"code":"empty_item"' in refused
