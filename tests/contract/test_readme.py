"""The README states facts that live elsewhere; they must not drift."""

from __future__ import annotations

import os
import re
from pathlib import Path

from scripts.render_readme import render

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_settings_and_figures_are_those_of_the_code_and_the_bundles() -> None:
    assert render(README, REPOSITORY) == README, "run: python -m scripts.render_readme"


def test_every_linked_file_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_two_commands_can_be_run() -> None:
    for command in ("scripts/serve", "scripts/test"):
        assert f"`{command}`" in README
        assert os.access(REPOSITORY / command, os.X_OK)


def test_every_module_that_it_tells_to_run_exists() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    assert modules
    for module in modules:
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
