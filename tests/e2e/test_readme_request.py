"""The README's first request gets the README's answer."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e.service import ROOT, Service

PROBABILITY_GAP = 0.03
"""Processors multiply a little differently."""


def test_the_request_in_the_readme_gets_the_answer_beside_it(shipped_service: Service) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## A request and its answer")[1].split("\n## ")[0]
    command, shown = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("sh", "json"))
    assert command
    assert shown
    words = shlex.split(command[1].replace("\\\n", " "))
    assert words[:2] == ["curl", "-s"]
    path = words[2].removeprefix("http://127.0.0.1:8000")
    form = [field.split("=", 1) for flag, field in pairwise(words) if flag == "-F"]
    files = [(name, (ROOT / value[1:]).read_bytes()) for name, value in form if value.startswith("@")]
    data: dict[str, list[str]] = {}
    for name, value in form:
        if not value.startswith("@"):
            data.setdefault(name, []).append(value)
    response = shipped_service.client.post(path, data=data, files=files)
    assert response.status_code == 200
    assert response.json() == about(json.loads(shown[1]))


def about(value: Any) -> Any:
    """Equal but for the last digits of probabilities."""
    if isinstance(value, float):
        return pytest.approx(value, abs=PROBABILITY_GAP)
    if isinstance(value, dict):
        return {name: about(inner) for name, inner in value.items()}
    return [about(inner) for inner in value] if isinstance(value, list) else value
