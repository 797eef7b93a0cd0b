"""The two README commands, the lock file and the container, read as they are committed; nothing is installed or built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCK: dict[str, Any] = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))
PACKAGES: list[dict[str, Any]] = LOCK["package"]
THIS: dict[str, Any] = next(package for package in PACKAGES if package["name"] == PROJECT["project"]["name"])
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
COMMANDS = ["scripts/serve", "scripts/test", "scripts/audit", ".ci/run"]

# Where the project may be installed, for asking what a marker means: the lock file writes the same marker in another form.
ENVIRONMENTS = [
    {
        "sys_platform": platform,
        "platform_machine": machine,
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.1",
        "platform_python_implementation": "CPython",
        "extra": extra,
    }
    for platform in ("linux", "darwin", "win32")
    for machine in ("x86_64", "aarch64")
    for minor in (11, 12, 13)
    for extra in ("", *PROJECT["project"]["optional-dependencies"])
]
Parts = tuple[str, frozenset[str], str, tuple[bool, ...]]


def _holds(marker: str | None) -> tuple[bool, ...]:
    """In which of ENVIRONMENTS."""
    return tuple(marker is None or Marker(marker).evaluate(environment) for environment in ENVIRONMENTS)


def _parts(text: str, extra: str | None = None) -> Parts:
    """A requirement of pyproject.toml. The lock file writes the extra it belongs to as part of its marker."""
    requirement = Requirement(text)
    holds = _holds(str(requirement.marker) if requirement.marker else None)
    if extra is not None:
        holds = tuple(a and environment["extra"] == extra for a, environment in zip(holds, ENVIRONMENTS, strict=True))
    return canonicalize_name(requirement.name), frozenset(requirement.extras), str(requirement.specifier), holds


def _locked(entry: dict[str, Any]) -> Parts:
    return entry["name"], frozenset(entry.get("extras", ())), entry.get("specifier", ""), _holds(entry.get("marker"))


def _serving_packages() -> list[dict[str, Any]]:
    """Every package that the serving dependencies bring, on any platform."""
    found: dict[str, list[dict[str, Any]]] = {}
    waiting = list(THIS["dependencies"])
    while waiting:
        dependency = waiting.pop()
        name = dependency["name"]
        if name not in found and any(_holds(dependency.get("marker"))):
            found[name] = [package for package in PACKAGES if package["name"] == name]
            waiting += [needed for package in found[name] for needed in package.get("dependencies", ())]
    return [package for packages in found.values() for package in packages]


# --- The lock file ---


def test_the_lock_file_is_in_step_with_the_project() -> None:
    project, metadata = PROJECT["project"], THIS["metadata"]
    wanted = {_parts(text) for text in project["dependencies"]}
    for extra, texts in project["optional-dependencies"].items():
        wanted |= {_parts(text, extra) for text in texts}
    assert {_locked(entry) for entry in metadata["requires-dist"]} == wanted, "run `uv lock`"
    for group, texts in PROJECT["dependency-groups"].items():
        entries = {_locked(entry) for entry in metadata["requires-dev"][group]}
        assert entries == {_parts(text) for text in texts}, "run `uv lock`"
    assert SpecifierSet(LOCK["requires-python"]) == SpecifierSet(project["requires-python"])
    assert THIS["version"] == project["version"]


def test_every_locked_file_has_a_hash_and_comes_from_the_public_index() -> None:
    for package in PACKAGES:
        if package is THIS:
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}, package["name"]
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        assert files, package["name"]
        for file in files:
            assert re.fullmatch("sha256:[0-9a-f]{64}", file["hash"]), file["url"]
            assert file["url"].startswith("https://files.pythonhosted.org/"), file["url"]


def test_serving_brings_neither_training_packages_nor_a_hub_client() -> None:
    names = {package["name"] for package in _serving_packages()}
    assert {"fastapi", "uvicorn", "httptools", "uvloop", "ai-edge-litert", "numpy"} <= names
    assert not names & {"tensorflow", "tensorflow-cpu", "keras", "matplotlib", "tensorboard", "tensorflow-datasets"}
    assert "huggingface-hub" not in names


@pytest.mark.parametrize("minor", [11, 12, 13])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_serving_on_linux_needs_no_compiler(minor: int, machine: str) -> None:
    fits = re.compile(rf"-(cp3{minor}-cp3{minor}|cp3\d+-abi3|(py2\.)?py3-none)-(.*linux.*_{machine}|any)\.")
    environment = {"sys_platform": "linux", "python_full_version": f"3.{minor}.1", "platform_machine": machine}
    for package in _serving_packages():
        # Of a package that is locked in several versions, the one for this Python.
        markers = package.get("resolution-markers", ["python_version > '3'"])
        if any(Marker(marker).evaluate(environment) for marker in markers):
            assert any(fits.search(wheel["url"]) for wheel in package["wheels"]), package["name"]


# --- The commands ---


@pytest.mark.parametrize("command", [*COMMANDS, "scripts/environment.sh"])
def test_shell_scripts_parse_and_commands_are_executable(command: str) -> None:
    path = ROOT / command
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK) == (command in COMMANDS)


def test_commands_are_executable_in_a_clone_too() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--stage", "--", *COMMANDS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["100755"] * len(COMMANDS)


def test_uv_is_one_version_with_hashes_for_the_commands_and_the_container() -> None:
    lines = [line for line in (ROOT / "scripts/uv-requirements.txt").read_text("utf-8").splitlines() if line[:1] != "#"]
    assert re.fullmatch(r"uv==[0-9.]+ \\", lines[1]), lines[1]
    assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines[2:])
    for user in ((ROOT / "scripts/environment.sh").read_text("utf-8"), DOCKERFILE):
        assert re.search(r"pip install .*--require-hashes -r (scripts/)?uv-requirements\.txt", user)
        assert "uv==" not in user


def test_a_python_that_does_not_fit_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("serve", "environment.sh", "uv-requirements.txt"):
        (tmp_path / "scripts" / name).write_bytes((ROOT / "scripts" / name).read_bytes())
    environment = {**os.environ, "ITEMLENS_PYTHON": str(tmp_path / "no-python")}
    ran = subprocess.run(["bash", "scripts/serve"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ITEMLENS_PYTHON must name a Python 3.11, 3.12 or 3.13 with venv" in ran.stderr
    assert not (tmp_path / ".venv").exists()


# What makes a Python take many times as long for everything, and what gives it a clock that says how long its work takes.
SLOW = "import sys\ndef trace(*_): return sum(range(200)) and trace\nsys.settrace(trace)"
CLOCK = "import itertools, time\ntime.process_time = itertools.count(0, {}).__next__"


def _python(path: Path, start: str) -> str:
    """A command that is this Python, but takes itself for the Python at `path` and runs `start` first."""
    folder = path.parent / f"{path.name} starts"
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(start + "\n")
    path.write_text(
        f"#!{shutil.which('bash')}\n"
        f"export PYTHONHOME='{sys.base_prefix}:{sys.base_exec_prefix}' PYTHONPATH='{folder}'\n"
        f'exec -a "$0" \'{Path(sys.executable).resolve()}\' "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def _found_python(*folders: Path, named: str = "") -> subprocess.CompletedProcess[str]:
    """What find_python prints where PATH is `folders` and ITEMLENS_PYTHON is `named`."""
    environment = {**os.environ, "PATH": os.pathsep.join(map(str, folders)), "ITEMLENS_PYTHON": named}
    command = [shutil.which("bash") or "bash", "-c", ". scripts/environment.sh; find_python"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_slow_first_python_gives_way_to_a_clearly_quicker_one(tmp_path: Path) -> None:
    _python(tmp_path / "python3.12", SLOW)
    quick = _python(tmp_path / "python3", "")
    assert _found_python(tmp_path).stdout == f"{quick}\n"


@pytest.mark.parametrize(("times", "chosen"), [((0.02, 0.017, 0.017), 0), ((0.02, 0.015, 0.015), 1), ((0.02, 0.015, 0.01), 2)])
def test_the_first_python_is_taken_unless_another_is_clearly_quicker(
    tmp_path: Path, times: tuple[float, ...], chosen: int
) -> None:
    names = ("python3.12", "python3.11", "python")
    pythons = [_python(tmp_path / name, CLOCK.format(seconds)) for name, seconds in zip(names, times, strict=True)]
    assert _found_python(tmp_path).stdout == f"{pythons[chosen]}\n"


def test_every_python_of_a_name_on_the_path_is_tried(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second one"]
    pythons = [_python(folder / "python3", CLOCK.format(0.02 / place)) for place, folder in enumerate(folders, 1)]
    assert _found_python(*folders).stdout == f"{pythons[1]}\n"


def test_the_named_python_is_taken_even_if_it_is_slow(tmp_path: Path) -> None:
    slow = _python(tmp_path / "a slow one", CLOCK.format(0.1))
    _python(tmp_path / "python3.12", CLOCK.format(0.01))
    assert _found_python(tmp_path, named=slow).stdout == f"{slow}\n"


def test_a_python_that_was_found_before_is_skipped(tmp_path: Path) -> None:
    clock = CLOCK.format("0.02 if sys.executable.endswith('3.12') else 0.01")
    python = _python(tmp_path / "python3.12", f"import sys\n{clock}")
    (tmp_path / "python3").symlink_to("python3.12")
    assert _found_python(tmp_path).stdout == f"{python}\n"


def test_pythons_that_do_not_fit_are_skipped_without_a_word(tmp_path: Path) -> None:
    broken = tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\necho no such command >&2\nexit 127\n")
    broken.chmod(0o755)
    _python(tmp_path / "python3.13", f"{CLOCK.format(0.01)}\nimport sys\nsys.version_info = (3, 10, 1, 'final', 0)")
    _python(tmp_path / "python3.11", f"{CLOCK.format(0.01)}\nimport sys\nsys.modules['venv'] = None")
    ran = _found_python(tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("itemlens: found no Python 3.11, 3.12 or 3.13 with venv; install one")
    assert len(ran.stderr.splitlines()) == 1
    fits = _python(tmp_path / "python", CLOCK.format(0.1))
    ran = _found_python(tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{fits}\n", "")


def test_ci_runs_every_step_and_names_the_ones_that_failed(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_bytes((ROOT / ".ci/run").read_bytes())
    exits = {"scripts/test": 0, ".venv/bin/ruff": 3, ".venv/bin/mypy": 0}

    def run() -> subprocess.CompletedProcess[str]:
        for name, code in exits.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f'#!/bin/sh\necho "ran {name} $*"\nexit {code}\n')
            (tmp_path / name).chmod(0o755)
        return subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, check=False)

    ran = run()
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-2:] == ["  .venv/bin/ruff check .", "  .venv/bin/ruff format --check ."]
    assert "ran .venv/bin/mypy" in ran.stdout
    exits[".venv/bin/ruff"] = 0
    assert run().returncode == 0


# --- The container ---


def test_the_images_python_is_one_that_the_project_supports() -> None:
    versions = re.findall(r"^FROM python:(\S+?)-slim-bookworm", DOCKERFILE, re.MULTILINE)
    assert len(set(versions)) == 1
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{versions[0]}.1")


def test_the_serving_image_is_the_last_stage_and_runs_as_a_numbered_user() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    serve = stages[-1]
    assert serve.startswith("base AS serve\n")
    (user,) = re.findall(r"^USER (\S+)$", serve, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert "HEALTHCHECK" in serve
    assert "/health/ready" in serve
    (packages,) = [stage for stage in stages if stage.startswith("locked AS serve-packages")]
    assert "--no-default-groups" in packages
    assert "--extra" not in packages


def test_the_build_context_holds_what_the_dockerfile_copies_and_no_more() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source.split("/")[0]
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert ignored[0] == "*"
    assert copied == allowed


def test_compose_runs_the_api_alone_and_hardened() -> None:
    api = COMPOSE["services"]["api"]
    assert [name for name, service in COMPOSE["services"].items() if "profiles" not in service] == ["api"]
    assert api["read_only"] is True
    assert api["cap_drop"] == ["ALL"]
    assert api["security_opt"] == ["no-new-privileges:true"]
    assert api["mem_limit"] == api["memswap_limit"]
    assert api["pids_limit"] > 0
    assert all(port.startswith("127.0.0.1:") for port in api["ports"])
    assert not {"privileged", "network_mode", "cap_add", "volumes"} & set(api)
    assert api["build"]["target"] == "serve"


def test_compose_waits_longer_for_a_stop_than_the_service_takes() -> None:
    from app.settings import Settings

    grace = int(COMPOSE["services"]["api"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["graceful_shutdown_s"].default


def test_the_train_profile_writes_only_where_it_is_mounted() -> None:
    train = COMPOSE["services"]["train"]
    assert train["profiles"] == ["train"]
    assert train["read_only"] is True
    assert train["cap_drop"] == ["ALL"]
    assert {volume.split(":")[0]: volume.split(":")[2:] for volume in train["volumes"]} == {
        "./data": ["ro"],
        "./models": [],
        "./runs": [],
    }


def test_images_carry_the_projects_version() -> None:
    from app import __version__

    assert __version__ == PROJECT["project"]["version"]
    assert {service["image"].split(":")[1] for service in COMPOSE["services"].values()} == {__version__}
