"""A catalogue whose rows come back as they were: CSV or JSONL, `.gz` allowed.

Owns reading rows in order with every field unchanged, and naming those that cannot be read. Refuses to know what a
column means, and to hold more than one row.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from scripts.data.errors import CatalogueError
from scripts.data.table import (
    CSV_SUFFIXES,
    JSONL_SUFFIXES,
    MAX_FIELD_CHARS,
    detect_encoding,
    field_limit,
    open_text,
    sniff_separator,
)


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One row. `number` counts rows from 0, `line` lines of the file from 1; `problem` says why it cannot be used."""

    number: int
    line: int
    values: Mapping[str, Any]
    problem: str = ""

    def cell(self, column: str | None) -> str:
        """A column's value as stripped text; "" where it is empty, absent, or not a plain value."""
        value = self.values.get(column) if column else None
        if isinstance(value, float) and value.is_integer():  # pandas writes integer columns with gaps as 15970.0
            value = int(value)
        return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


class CatalogueFile:
    """A table that may be read many times over. Raises CatalogueError: missing, unreadable, or of an unknown kind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CatalogueError(f"There is no file {path}: check the catalogue's path.")
        suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() != ".gz"), "")
        if suffix not in CSV_SUFFIXES + JSONL_SUFFIXES:
            known = ", ".join(CSV_SUFFIXES + JSONL_SUFFIXES)
            raise CatalogueError(
                f"{path.name} is not a known kind of table; the file name must end in {known} (or that + .gz)."
            )
        self.is_csv = suffix in CSV_SUFFIXES
        self.separator = ","
        self.columns: tuple[str, ...] = ()
        """Of a CSV: its header. Of JSONL: the keys of all its rows."""
        self.rows = 0
        try:
            self._encoding, self.note = detect_encoding(path)
            if self.is_csv:
                with open_text(path, self._encoding) as file:
                    self._read_header(file.readline(), suffix)
            keys: dict[str, None] = {}
            for row in self:
                self.rows += 1
                if not self.is_csv:
                    keys.update(dict.fromkeys(row.values))
            self.columns = self.columns or tuple(keys)
        except (OSError, EOFError, csv.Error) as error:
            raise CatalogueError(f"{path.name} cannot be read: {error}.") from error
        if not self.rows:
            raise CatalogueError(f"{path.name} has no rows.")

    def _read_header(self, first_line: str, suffix: str) -> None:
        self.separator = "\t" if suffix == ".tsv" else sniff_separator(first_line)
        self.columns = tuple(name.strip() for name in next(csv.reader([first_line], delimiter=self.separator), []))
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise CatalogueError(f"{self.path.name} has two columns {twice[0]!r}; rename one.")

    def __iter__(self) -> Iterator[CatalogueRow]:
        with open_text(self.path, self._encoding) as file:
            rows = self._csv_rows(file) if self.is_csv else self._json_rows(file)
            for number, (line, values, problem) in enumerate(rows):
                yield CatalogueRow(number, line, values, problem)

    def _csv_rows(self, file: Any) -> Iterator[tuple[int, Mapping[str, Any], str]]:
        first_line = file.readline()
        with field_limit(MAX_FIELD_CHARS):
            reader = csv.reader(chain([first_line], file), delimiter=self.separator)
            next(reader, None)
            next_line = reader.line_num + 1
            for fields in reader:
                line, next_line = next_line, reader.line_num + 1
                if not fields:  # a blank line
                    continue
                surplus = fields[len(self.columns) :]
                missing = len(self.columns) - len(fields)
                problem = "too_many_columns" if any(surplus) else "too_few_columns" if missing > 0 else ""
                yield line, dict(zip(self.columns, fields, strict=False)), problem

    def _json_rows(self, file: Any) -> Iterator[tuple[int, Mapping[str, Any], str]]:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except (ValueError, RecursionError):
                values = None
            yield (line, values, "") if isinstance(values, dict) else (line, {}, "not_json")

    def digest(self) -> str:
        """SHA-256 of the file: what a resumed run has to find again."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
