"""CSV and JSONL files to columns of strings, with every unreadable row accounted for.

Owns file formats: encodings, separators, quoting, repair of unquoted separators, compression. Refuses to know what a
column means.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO, cast

from scripts.data.errors import CatalogueError, missing_column_message
from scripts.data.report import RowIssue

CSV_SUFFIXES = (".csv", ".tsv")
JSONL_SUFFIXES = (".jsonl", ".ndjson")
_SEPARATORS = ",;\t|"
# Product descriptions run to some kilobytes; only a quote that is never closed gets near these.
MAX_FIELD_CHARS = 64 * 1024 * 1024
_MAX_LINES_PER_ROW = 1000


@dataclass
class Table:
    """Columns of stripped strings, all of one length; `lines[i]` is where row i starts in the file (from 1)."""

    columns: dict[str, list[str]]
    lines: list[int] = field(default_factory=list)
    available: tuple[str, ...] = ()
    """All column names of the file, wanted or not."""
    rows_read: int = 0
    issues: list[RowIssue] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, *, required: dict[str, str], optional: Sequence[str] = (), text_column: str | None = None) -> Table:
    """Read the named columns of a CSV/TSV or JSONL/NDJSON file (`.gz` allowed).

    `required` maps each column to its purpose, for the message when it is missing; an absent `optional` column is left
    out of the result. A CSV row with too many fields is repaired when the surplus can only belong to `text_column`
    because that is the last column.

    Raises:
        CatalogueError: no such file, unknown format, unreadable, no rows, or a required column is missing.
    """
    if not path.is_file():
        raise CatalogueError(f"There is no file {path}: check the catalogue's path, or pass the data folder with --data.")
    suffix = next((s for s in reversed(path.suffixes) if s.lower() != ".gz"), "").lower()
    if suffix not in CSV_SUFFIXES + JSONL_SUFFIXES:
        known = ", ".join(CSV_SUFFIXES + JSONL_SUFFIXES)
        raise CatalogueError(f"{path.name} is not a known kind of table; the file name must end in {known} (or that + .gz).")
    try:
        encoding, note = detect_encoding(path)
        with open_text(path, encoding) as file:
            if suffix in JSONL_SUFFIXES:
                table = _read_jsonl(file, path, required, optional)
            else:
                table = _read_csv(file, path, required, optional, text_column)
    except (OSError, EOFError, csv.Error) as error:
        raise CatalogueError(f"{path.name} cannot be read: {error}.") from error
    if note:
        table.notes.insert(0, note)
    if not table.rows_read:
        raise CatalogueError(f"{path.name} has no rows.")
    return table


def _read_csv(file: IO[str], path: Path, required: dict[str, str], optional: Sequence[str], text_column: str | None) -> Table:
    first_line = file.readline()
    separator = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else sniff_separator(first_line)
    with field_limit(MAX_FIELD_CHARS):
        reader = csv.reader(chain([first_line], file), delimiter=separator)
        header = [name.strip() for name in next(reader, [])]
        table = _empty_table(path, header, required, optional)
        wanted = [(values, header.index(name)) for name, values in table.columns.items()]
        repairable = text_column is not None and header[-1] == text_column
        next_line, several_lines = reader.line_num + 1, 0
        for fields in reader:
            line, next_line = next_line, reader.line_num + 1
            if not fields:  # a blank line
                continue
            table.rows_read += 1
            several_lines += next_line - line > 1
            if next_line - line > _MAX_LINES_PER_ROW:
                raise CatalogueError(
                    f'{path.name}: the row at line {line} runs over {next_line - line} lines; a quote (") that opens '
                    "there is never closed. Close or remove it."
                )
            surplus = len(fields) - len(header)
            if surplus > 0 and not any(fields[len(header) :]):
                fields = fields[: len(header)]  # spreadsheets leave trailing separators
            elif surplus > 0 and repairable:
                fields = [*fields[: len(header) - 1], separator.join(fields[len(header) - 1 :])]
                table.issues.append(RowIssue(line, fields[0].strip(), "repaired", f"{surplus} surplus fields joined"))
            elif surplus:
                reason = "too_many_columns" if surplus > 0 else "too_few_columns"
                detail = f"{len(fields)} fields, the header has {len(header)}"
                table.issues.append(RowIssue(line, fields[0].strip()[:40], reason, detail))
                continue
            table.lines.append(line)
            for values, index in wanted:
                values.append(fields[index].strip())
    if separator != ",":
        table.notes.append(f"fields are separated by {separator!r}")
    if several_lines:
        table.notes.append(f"{several_lines} rows run over several lines inside quotes")
    return table


def _read_jsonl(file: IO[str], path: Path, required: dict[str, str], optional: Sequence[str]) -> Table:
    available: dict[str, None] = {}
    names = list(dict.fromkeys([*required, *optional]))
    columns: dict[str, list[str]] = {name: [] for name in names}
    table = Table(columns)
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        table.rows_read += 1
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            table.issues.append(RowIssue(line, "", "not_json"))
            continue
        available.update(dict.fromkeys(row))
        values = [_plain(row.get(name)) for name in names]
        if None in values:
            table.issues.append(RowIssue(line, "", "not_plain_value", names[values.index(None)]))
            continue
        table.lines.append(line)
        for name, value in zip(names, values, strict=True):
            columns[name].append(value or "")
    if table.lines:
        kept = _empty_table(path, list(available), required, optional).columns
        table.columns = {name: columns[name] for name in kept}
    table.available = tuple(available)
    return table


def _plain(value: object) -> str | None:
    """A JSON scalar as a stripped string, "" for null; None for what cannot be one."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():  # pandas writes integer columns with gaps as 15970.0
        return str(int(value))
    return str(value) if isinstance(value, int | float) else None


def _empty_table(path: Path, available: Sequence[str], required: dict[str, str], optional: Sequence[str]) -> Table:
    for name, purpose in required.items():
        if name not in available:
            raise CatalogueError(missing_column_message(name, purpose=purpose, available=available, where=path.name))
    names = [*required, *(name for name in optional if name in available)]
    return Table({name: [] for name in dict.fromkeys(names)}, available=tuple(available))


def sniff_separator(header: str) -> str:
    """The separator that cuts the header into most fields; a comma where none does."""
    return max(_SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def detect_encoding(path: Path) -> tuple[str, str]:
    """The file's encoding and a note for the report ("" for plain UTF-8)."""
    with _open_bytes(path) as file:
        start = file.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16", f"{path.name} is UTF-16"
    try:
        with open_text(path, "utf-8-sig") as text:
            while text.read(1 << 20):
                pass
    except UnicodeDecodeError:
        # As browsers do, Latin-1 is read as its superset Windows-1252; bytes without a meaning there become U+FFFD.
        return "cp1252", f"{path.name} is not UTF-8 and was read as Latin-1 (Windows-1252); check accented letters"
    return "utf-8-sig", ""


def _open_bytes(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    errors = "replace" if encoding == "cp1252" else "strict"
    with _open_bytes(path) as raw, io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="") as text:
        yield text


@contextmanager
def field_limit(max_chars: int) -> Iterator[None]:
    previous = csv.field_size_limit(max_chars)
    try:
        yield
    finally:
        csv.field_size_limit(previous)
