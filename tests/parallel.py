"""How the suite is shared out over processes (`pytest --numprocesses 3`, as `scripts/test` runs it).

Owns the parts that one process takes whole: a file, or several files that share what takes long to make (a trained run, the
services). Without pytest-xdist this does nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

SHARING = {
    "tests/scripts/test_fitting": "fitted",
    "tests/scripts/test_held_out": "fitted",
    "tests/scripts/test_finishing": "fitted",
    "tests/scripts/test_": "trained",
    "tests/scripts/evaluation/": "trained",
    "tests/e2e/": "services",
}
"""What a file's path begins with, and the part that it then belongs to; the first that fits. Those that train little networks
of their own are apart from those that look at the one whole run: neither should be what the others wait for."""


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
