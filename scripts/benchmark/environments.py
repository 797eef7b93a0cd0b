"""The peers' environments: one each, since their dependencies fight.

Owns making them, by uv where it is there, else by venv and pip. An environment that is complete is used again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmark.contenders import ROOT, Contender, environment_folder

# What `app.engine` and the decoding of base64 import; the versions are the project's own.
_ENGINE_PACKAGES = ("pydantic", "pybase64", "pillow", "numpy", "tokenizers", "structlog", "prometheus-client", "ai-edge-litert")
_COMPLETE = "benchmark.json"
"""Written last: names what was installed."""
INSTALL_TIMEOUT_S = 1800


class InstallError(Exception):
    """A peer cannot be installed here; the message is the installer's last words."""


def ensure_environment(contender: Contender, out: Path) -> None:
    """Install the peer unless its environment is there and complete. Raises InstallError."""
    folder = environment_folder(out, contender)
    wanted = [*engine_requirements(), *contender.packages]
    complete = folder / _COMPLETE
    if complete.exists() and json.loads(complete.read_text()) == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = _uv()
    log = folder.parent / f"{contender.name}.log"
    python = str(folder / "bin" / "python")
    if uv is not None:
        _run([uv, "venv", "--python", sys.executable, str(folder)], log)
        _run([uv, "pip", "install", "--python", python, *wanted], log)
    else:
        _run([sys.executable, "-m", "venv", str(folder)], log)
        _run([python, "-m", "pip", "install", *wanted], log)
    complete.write_text(json.dumps(wanted))


def installed_version(contender: Contender, out: Path) -> str:
    """The peer's own version in its environment, or ""."""
    name = contender.packages[0].split(">")[0].split("[")[0]
    found = list(environment_folder(out, contender).glob(f"lib/python*/site-packages/{name}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").split("-")[-1] if found else ""


def engine_requirements() -> list[str]:
    """The lines of pyproject.toml that the engine needs."""
    dependencies: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    return [line for line in dependencies if line.split(">")[0].split(";")[0].strip() in _ENGINE_PACKAGES]


def _uv() -> str | None:
    own = ROOT / ".tools" / "uv"
    return str(own) if own.exists() else shutil.which("uv")


def _run(command: Sequence[str], log: Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{Path(command[0]).name}: {error}") from error
    log.write_text(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}\n")
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise InstallError(f"{last} (see envs/{log.name})")
