"""What takes long to make is made once, also where the suite is shared out over processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.parallel import LONGEST, SHARING, part_of

ROOT = Path(__file__).parent.parent.parent
FILES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize(("asked_for", "part"), [("trained: MadeRun", "trained"), (r"\w*service: Service", "services")])
def test_the_files_that_ask_for_it_are_one_part(asked_for: str, part: str) -> None:
    asking = [path for path, text in FILES.items() if re.search(rf"^(async )?def test_.*\b{asked_for}\b", text, re.MULTILINE)]
    assert len(asking) > 1
    assert {part_of(f"{path}::test_it[a::b]") for path in asking} == {part}


def test_other_files_are_a_part_each() -> None:
    assert part_of("tests/api/test_tls.py::test_it[1.2]") == "tests/api/test_tls.py"
    assert all(any(path.startswith(beginning) for path in FILES) for beginning in SHARING)
    assert set(LONGEST) <= {part_of(path) for path in FILES}
