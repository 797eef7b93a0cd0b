"""How the suite is shared out over processes (`pytest --numprocesses 3`, as `scripts/test` runs it).

Owns the parts that one process takes whole: a file, or several files that share what takes long to make (a trained run, the
services). Without pytest-xdist this does nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

SHARING = {
    "tests/scripts/evaluation/test_protocols": "trained",
    "tests/scripts/test_evaluate": "trained",
    "tests/scripts/test_model_card": "trained",
    "tests/scripts/test_pictures": "trained",
    "tests/scripts/test_recalibrate": "trained",
    "tests/scripts/test_sealed_figures": "trained",
    "tests/scripts/test_served_model": "trained",
    "tests/scripts/test_starting_point": "trained",
    "tests/scripts/test_teaching": "trained",
    "tests/scripts/test_train": "trained",
    "tests/e2e/test_workers": "workers",
    "tests/e2e/": "services",
}
"""What a file's path begins with, and the part that it then belongs to; the first that fits. Those that train little networks
of their own, or start services that nobody else asks, are apart: the larger a part, the longer the others may wait for it."""

LONGEST = ("trained", "services", "tests/scripts/test_fitting.py", "workers")
"""These begin before all others. One that began last would run on alone."""


def part_of(test_id: str) -> str:
    """The part of the suite that a test runs in: all of it in one process, one test after the other."""
    path = test_id.split("::", 1)[0]
    return next((part for beginning, part in SHARING.items() if path.startswith(beginning)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class PartScheduling(LoadScopeScheduling):  # type: ignore[misc]
        """`LONGEST` first, then the parts with the most tests."""

        def _split_scope(self, nodeid: str) -> str:
            return part_of(nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            first = next((part for part in LONGEST if part in self.workqueue), None)
            if first:
                self.workqueue.move_to_end(first, last=False)
            super()._assign_work_unit(node)

    return PartScheduling(config, log)
