"""The answers so far, on disk: what a stopped run has done and a resumed one need not do again.

Owns the partial file beside the output: a first line that says what the run was, then one line per answered row, in any
order, each flushed. It holds answers and row numbers, no titles and no photos.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_PASSING = frozenset({"internal_error", "overloaded", "not_ready", "deadline_exceeded"})
"""Failures of the service's moment, not of the row: a resumed run asks again."""


class JournalError(Exception):
    """The partial file cannot be used; the message says what to do."""


class Journal:
    """Opened with `run`, what must be the same for answers to belong together. Close it, or `remove` it when done.

    Raises JournalError: there is a partial file and `resume` is off, or it is of another run.
    """

    def __init__(self, path: Path, run: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self._offsets: dict[int, int] = {}
        self._passing: set[int] = set()
        if path.exists() and not resume:
            raise JournalError(f"{path} is left of a stopped run: go on with --resume, or delete it to begin anew.")
        if path.exists() and path.stat().st_size:
            self._file: BinaryIO = path.open("r+b")
            try:
                self._read(run)
            except BaseException:
                self._file.close()
                raise
        else:
            self._file = path.open("w+b")
            self._write({"run": run})

    def _read(self, run: dict[str, Any]) -> None:
        end = 0
        for line in self._file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None:
                break  # the process was stopped in the middle of this line
            if end == 0:
                self._check(entry.get("run"), run)
            else:
                self._note(entry["row"], entry["result"], end)
            end += len(line)
        self._file.seek(end)
        self._file.truncate()
        if end == 0:
            self._write({"run": run})

    def _check(self, found: Any, run: dict[str, Any]) -> None:
        differing = sorted(key for key in run if not isinstance(found, dict) or found.get(key) != run[key])
        if differing:
            what = " and ".join(differing)
            raise JournalError(f"{self.path} was begun with another {what}: go on with the same, or delete it to begin anew.")

    def _note(self, row: int, result: dict[str, Any], offset: int) -> None:
        self._offsets[row] = offset
        code = result["error"]["code"] if result["status"] == "error" else None
        (self._passing.add if code in _PASSING else self._passing.discard)(row)

    def _write(self, entry: dict[str, Any]) -> int:
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        return offset

    def add(self, row: int, result: dict[str, Any]) -> None:
        """Keep the result of one row, by its number."""
        self._note(row, result, self._write({"row": row, "result": result}))

    def is_settled(self, row: int) -> bool:
        """Whether the row has a result that asking again would not change."""
        return row in self._offsets and row not in self._passing

    @property
    def is_empty(self) -> bool:
        return not self._offsets

    @property
    def unsettled_rows(self) -> int:
        """Rows that failed for a reason that may pass."""
        return len(self._passing)

    def result(self, row: int) -> dict[str, Any]:
        """The latest result of a row. Raises KeyError where there is none."""
        self._file.seek(self._offsets[row])
        return dict(json.loads(self._file.readline())["result"])

    def results(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every row's latest result, by row number."""
        for row in sorted(self._offsets):
            yield row, self.result(row)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """The output is written; nothing is left to resume."""
        self._file.close()
        self.path.unlink(missing_ok=True)
