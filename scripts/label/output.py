"""The labelled catalogue: the rows as they were, with what the service said beside them.

Owns the added columns, the order of the rows and the list of bad ones. Refuses to leave half a file under the output's name.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scripts.data.errors import CatalogueError
from scripts.label.catalogue import CatalogueFile, CatalogueRow
from scripts.label.journal import Journal

BadRow = tuple[int, str, str, str]
"""Line, id, reason, detail."""


class LabelColumns:
    """The columns that are added to a CSV, all under one prefix. Raises CatalogueError: the catalogue has one of them."""

    def __init__(self, catalogue: CatalogueFile, attributes: Sequence[str], prefix: str) -> None:
        self._attributes, self._prefix = tuple(attributes), prefix
        per_attribute = [n for a in attributes for n in (a, f"{a}_confidence", f"{a}_decision")]
        self.names = tuple(f"{prefix}{name}" for name in ("status", "inputs", *per_attribute, "agreement", "conflicts"))
        self.key = prefix.rstrip("_.- ") or "labels"
        """Of JSONL: the key that holds the whole result."""
        taken = [name for name in (self.names if catalogue.is_csv else [self.key]) if name in catalogue.columns]
        if taken:
            raise CatalogueError(f"{catalogue.path.name} has a column {taken[0]!r} already; choose another --prefix.")

    def cells(self, result: dict[str, Any]) -> list[str]:
        """One value per name. A failed row has its problem's code as status, and nothing else."""
        if result["status"] != "ok":
            return [result["error"]["code"], *[""] * (len(self.names) - 1)]
        cells = ["ok", "+".join(result["inputs"])]
        for name in self._attributes:
            answer = result["attributes"][name]
            cells += [answer["label"] or "", f"{answer['confidence']:.6f}", answer["decision"]]
        agreement = result.get("agreement")
        if agreement is None:
            return [*cells, "", ""]
        return [*cells, f"{agreement['score']:.6f}", " ".join(c["attribute"] for c in agreement["conflicts"])]


def certainty(result: dict[str, Any]) -> float:
    """What rows are ordered by, least certain first: below 0 what the model does not know at all, then the confidence of the
    attribute that it is least sure of; failed rows last, since no look at the labels helps them."""
    if result["status"] != "ok":
        return 2.0
    answers = [answer for answer in result["attributes"].values() if answer["decision"] != "not_applicable"]
    least = min((float(answer["confidence"]) for answer in answers), default=1.0)
    return least - 1.0 if any(answer["decision"] == "abstain" for answer in answers) else least


def write_labelled(
    catalogue: CatalogueFile, journal: Journal, columns: LabelColumns, path: Path, *, least_certain_first: bool
) -> None:
    """Write the output in one step: it appears under its name when it is whole. Raises OSError."""
    rows: Iterable[tuple[CatalogueRow, dict[str, Any]]] = ((row, journal.result(row.number)) for row in catalogue)
    if least_certain_first:
        order = {row: place for place, (_, row) in enumerate(sorted((certainty(r), n) for n, r in journal.results()))}
        in_order = sorted(catalogue, key=lambda row: order[row.number])
        rows = ((row, journal.result(row.number)) for row in in_order)
    with _whole_file(path) as file:
        if catalogue.is_csv:
            writer = csv.writer(file, delimiter=catalogue.separator, lineterminator="\n")
            writer.writerow([*catalogue.columns, *columns.names])
            for row, result in rows:
                given = [row.values.get(name, "") for name in catalogue.columns]
                writer.writerow([*given, *columns.cells(result)])
        else:
            for row, result in rows:
                file.write(json.dumps({**row.values, columns.key: result}, ensure_ascii=False) + "\n")


def write_bad_rows(rows: Sequence[BadRow], path: Path) -> None:
    """The rows to look at, by line; an older list is removed where there is none. Raises OSError."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with _whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("line", "id", "reason", "detail"), *sorted(rows)])


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[str]]:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as raw:
            packed = gzip.GzipFile(fileobj=raw, mode="wb") if path.suffix == ".gz" else raw
            with io.TextIOWrapper(packed, encoding="utf-8", newline="") as text:
                yield text
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
