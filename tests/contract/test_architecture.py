"""Dependencies only point down: HTTP → engine → runtime. Read from the source, so that no import can hide."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
APP = ROOT / "app"
ENGINE = APP / "engine"
RUNTIMES = ENGINE / "runtimes"
HTTP_PACKAGES = {"fastapi", "starlette", "uvicorn", "httptools", "python_multipart", "httpx"}


def _imports(path: Path) -> set[str]:
    """Full names of every module a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def _tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imports(path)}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_are_found_wherever_they_hide(tmp_path: Path) -> None:
    source = "def f():\n    import a.b\n    from c import d\n    importlib.import_module('e.f')\n"
    (tmp_path / "x.py").write_text(source)
    assert _imports(tmp_path / "x.py") == {"a.b", "c", "c.d", "e.f"}


@pytest.mark.parametrize("path", _files(ENGINE), ids=_name)
def test_the_engine_knows_nothing_of_http(path: Path) -> None:
    assert not _tops(path) & HTTP_PACKAGES
    above = {name for name in _imports(path) if name.startswith("app.")} - {"app.metrics"}
    assert all(name.startswith(("app.engine", "app.metrics")) for name in above), above


@pytest.mark.parametrize("path", [p for p in _files(APP) if not p.is_relative_to(ENGINE)], ids=_name)
def test_http_code_sees_no_tensor(path: Path) -> None:
    assert not _tops(path) & {"numpy", "tensorflow", "keras", "ai_edge_litert", "PIL", "tokenizers"}
    assert not any(name.startswith("app.engine.runtimes") for name in _imports(path))


@pytest.mark.parametrize("package", ["tensorflow", "ai_edge_litert"])
def test_a_runtime_is_imported_in_one_serving_module_at_most(package: str) -> None:
    users = [path for path in _files(APP) if package in _tops(path)]
    assert len(users) <= 1, users
    assert all(path.is_relative_to(RUNTIMES) for path in users)


@pytest.mark.parametrize("path", _files(APP), ids=_name)
def test_the_app_never_imports_training_code(path: Path) -> None:
    assert not _tops(path) & {"scripts", "tests", "keras", "matplotlib", "tensorflow_datasets"}


_METRICS = {"metrics.py": {"prometheus_client", "app.metrics_memory"}, "metrics_memory.py": {"structlog"}}


@pytest.mark.parametrize(("name", "allowed"), _METRICS.items())
def test_metrics_are_a_leaf(name: str, allowed: set[str]) -> None:
    others = {top for top in _tops(APP / name) if top not in sys.stdlib_module_names}
    of_app = {full for full in _imports(APP / name) if full.startswith("app.")}
    assert others - {"app"} | of_app <= allowed


@pytest.mark.parametrize("path", [p for p in _files(APP) if not p.is_relative_to(APP / "fetch")], ids=_name)
def test_one_package_alone_reaches_out_and_only_when_asked(path: Path) -> None:
    clients = {"httpx", "requests", "aiohttp", "urllib.request", "http.client", "ftplib"}
    assert not {name for name in _imports(path) if name in clients or name.split(".")[0] in clients}
    # The fetcher is imported inside one function, where hosts are allowed, and for types.
    loaded = ast.parse(path.read_text("utf-8")).body
    at_once = {node.module for node in loaded if isinstance(node, ast.ImportFrom)}
    assert not at_once & {"app.fetch.fetcher", "app.fetch.answer"}


@pytest.mark.parametrize("path", _files(APP), ids=_name)
def test_every_module_says_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring, path


@pytest.mark.parametrize("path", _files(APP), ids=_name)
def test_no_module_is_longer_than_300_lines_or_named_for_nothing(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 300
    assert path.stem not in {"utils", "helpers", "common", "misc", "manager"}
