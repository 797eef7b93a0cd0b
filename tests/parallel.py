"""How the suite is shared out over processes (`pytest --numprocesses 2`, as `scripts/test` runs it).

Owns the parts that one process takes whole: a file, or several files that share what takes long to make (a trained run, the
services). Without pytest-xdist this does nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

SHARING = {"tests/scripts/test_": "trained", "tests/scripts/evaluation/": "trained", "tests/e2e/": "services"}
"""What a file's path begins with, and the part that it then belongs to."""


def part_of(test_id: str) -> str:
    """The part of the suite that a test runs in: all of it in one process, one test after the other."""
    path = test_id.split("::", 1)[0]
    return next((part for beginning, part in SHARING.items() if path.startswith(beginning)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class PartScheduling(LoadScopeScheduling):  # type: ignore[misc]
        """The parts with the most tests first, which are those that take longest."""

        def _split_scope(self, nodeid: str) -> str:
            return part_of(nodeid)

    return PartScheduling(config, log)
