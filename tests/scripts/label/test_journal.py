"""A stopped run loses nothing that was answered, and goes on only as the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.label.journal import Journal, JournalError

RUN = {"model": "tiny", "version": "1"}
OK: dict[str, Any] = {"status": "ok", "attributes": {"colour": {"label": "grün"}}}


def failed(code: str) -> dict[str, Any]:
    return {"status": "error", "error": {"code": code}}


def test_answers_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    journal = Journal(path, RUN, resume=False)
    journal.add(3, OK)
    journal.add(1, failed("undecodable_image"))
    journal.close()
    journal = Journal(path, RUN, resume=True)
    assert [journal.is_settled(row) for row in range(4)] == [False, True, False, True]
    assert journal.result(3) == OK
    assert [row for row, _ in journal.results()] == [1, 3]
    journal.remove()
    assert not path.exists()


def test_a_line_that_was_cut_short_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    journal = Journal(path, RUN, resume=False)
    journal.add(0, OK)
    journal.add(1, OK)
    journal.close()
    path.write_bytes(path.read_bytes()[:-5])
    journal = Journal(path, RUN, resume=True)
    assert [journal.is_settled(row) for row in range(2)] == [True, False]
    journal.add(1, OK)
    journal.close()
    journal = Journal(path, RUN, resume=True)
    assert journal.is_settled(1)
    journal.close()


def test_failures_that_may_pass_are_asked_again_and_then_settled(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    journal = Journal(path, RUN, resume=False)
    journal.add(0, failed("internal_error"))
    assert (journal.is_settled(0), journal.unsettled_rows) == (False, 1)
    journal.add(0, OK)
    assert (journal.is_settled(0), journal.unsettled_rows, journal.result(0)) == (True, 0, OK)
    journal.close()


def test_it_is_neither_overwritten_nor_mixed_with_another_run(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    Journal(path, RUN, resume=False).close()
    with pytest.raises(JournalError, match="--resume"):
        Journal(path, RUN, resume=False)
    with pytest.raises(JournalError, match="another version"):
        Journal(path, RUN | {"version": "2"}, resume=True)
    path.write_text("something else\n")
    Journal(path, RUN, resume=True).close()
