"""A CSV or JSONL catalogue to rows: which column means what, and which rows can be used.

Owns the meaning of columns. Refuses to know file formats (`table`) and photos (`row_photos`).
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.engine.masking import mask_personal_data
from app.engine.text import canonical_title
from scripts.config import CatalogueConfig, PhotoSource, RunConfig
from scripts.data.errors import CatalogueError
from scripts.data.report import RowIssue
from scripts.data.row_photos import RowPhotos, read_extra_photos, read_row_photos
from scripts.data.rows import SourceRows, evenly_spaced, no_photos
from scripts.data.splits import SPLIT_NAMES, complete_split, group_rows, split_rows
from scripts.data.table import Table, read_table

_MAX_DETAIL_CHARS = 80


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A row that may be used, before its photo is looked for; `split` is "" where the table does not decide it."""

    line: int
    row_id: str
    title: str
    labels: tuple[str, ...]
    split: str
    photo_cell: str

    def issue(self, reason: str, detail: str = "") -> RowIssue:
        return RowIssue(self.line, self.row_id, reason, detail[:_MAX_DETAIL_CHARS])


def read_catalogue_table(config: RunConfig, *, cache_dir: Path, limit: int | None) -> SourceRows:
    """Read the table, decode its photos (cached), and split it.

    Raises:
        CatalogueError: the table or a photo source is missing or unreadable, a needed column is missing, or no photo at
            all was found.
    """
    catalogue = config.catalogue
    path = catalogue.path
    if path is None:
        raise CatalogueError("the catalogue has no path: name its CSV or JSONL file (--catalogue, or path in the config)")
    size = (config.network.image_height, config.network.image_width)
    wants_photos = all(size) and (catalogue.image_column or catalogue.image_pattern) is not None
    table, absent = _read_columns(path, catalogue, wants_photos)
    notes, issues = list(table.notes), list(table.issues)
    if absent:
        notes.append(f"{path.name} lacks the optional columns {', '.join(absent)}")
    chosen = evenly_spaced(len(table.lines), limit)
    candidates = list(_candidates(catalogue, table, chosen, issues))
    if wants_photos:
        found = read_row_photos(
            [row.photo_cell for row in candidates],
            [not row.title for row in candidates],
            catalogue.photos or (PhotoSource(path.parent),),
            size=size,
            cache_dir=cache_dir,
            notes=notes,
        )
    else:
        titled = sum(1 for row in candidates if row.title)
        found = RowPhotos(no_photos(titled, *size), ["missing_photo"] * len(candidates), [""] * len(candidates))
    kept = list(_kept(candidates, found.reasons, issues, wants_photos, catalogue.text_column in table.columns))
    rows = [candidates[i] for i in kept]
    groups = group_rows([row.title for row in rows], [found.hashes[i] for i in kept])
    split = _split(rows, groups, config.training.seed, notes)
    extra_photos, extra_rows = no_photos(0, *size), np.zeros(0, np.int64)
    if wants_photos and catalogue.extra_photos:
        train = np.flatnonzero(split == "train")
        extra_photos, owners, unreadable = read_extra_photos(
            [rows[i].photo_cell for i in train], catalogue.extra_photos, size=size, cache_dir=cache_dir, notes=notes
        )
        extra_rows = train[owners] if owners else extra_rows
        issues += [rows[train[owner]].issue("unreadable_extra_photo", reason) for owner, reason in unreadable]
    columns = [c for c in (*catalogue.label_columns, *catalogue.auxiliary_columns) if c in table.columns]
    return SourceRows(
        source=path.name,
        rows_read=len(chosen) + table.rows_read - len(table.lines),
        photos=found.pixels,
        photo_present=np.array([not found.reasons[i] for i in kept], bool),
        titles=[row.title for row in rows],
        labels={c: np.array([row.labels[k] for row in rows], dtype=object) for k, c in enumerate(columns)},
        row_ids=[row.row_id for row in rows],
        split=split,
        extra_photos=extra_photos,
        extra_rows=extra_rows,
        issues=issues,
        notes=notes,
        absent_columns=absent,
        photo_cells=[row.photo_cell for row in rows],
    )


def _read_columns(path: Path, catalogue: CatalogueConfig, wants_photos: bool) -> tuple[Table, list[str]]:
    """The columns the run needs, and the optional ones that are not there."""
    purposes: dict[str, str] = {}
    for purpose, names in (
        ("a label column", catalogue.label_columns),
        ("an auxiliary label column", catalogue.auxiliary_columns),
        ("the text column", (catalogue.text_column,)),
        ("the split column", (catalogue.split_column,)),
        ("the id column", (catalogue.id_column,)),
        ("the image column", (catalogue.image_column if wants_photos else None,)),
        ("named by the image pattern", _pattern_fields(catalogue.image_pattern) if wants_photos else ()),
    ):
        purposes |= {name: purpose for name in names if name}
    required = {name: purpose for name, purpose in purposes.items() if name not in catalogue.optional_columns}
    optional = [name for name in purposes if name in catalogue.optional_columns]
    table = read_table(path, required=required, optional=[*optional, "id"], text_column=catalogue.text_column)
    return table, [name for name in optional if name not in table.columns]


def _pattern_fields(pattern: str | None) -> list[str]:
    if pattern is None:
        return []
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
    except ValueError as error:
        raise CatalogueError(f"the image pattern {pattern!r} is not valid: {error}") from error
    if not names or not all(names):
        raise CatalogueError(f"the image pattern {pattern!r} must name a column in braces, as in 'images/{{id}}.jpg'")
    return names


def _candidates(
    catalogue: CatalogueConfig, table: Table, chosen: NDArray[np.int64], issues: list[RowIssue]
) -> Iterator[_Candidate]:
    columns = table.columns
    empty = [""] * len(table.lines)
    # As in the service: what the model sees in training is what it will see.
    titles = [mask_personal_data(canonical_title(title)).strip() for title in columns.get(catalogue.text_column or "", empty)]
    splits = columns.get(catalogue.split_column or "")
    ids = columns.get(catalogue.id_column or "id", empty)
    cells = columns.get(catalogue.image_column or "", empty)
    labels = [columns[c] for c in (*catalogue.label_columns, *catalogue.auxiliary_columns) if c in columns]
    published = sum(c in columns for c in catalogue.label_columns)
    unknown = set(catalogue.unknown_labels)
    pattern, fields = catalogue.image_pattern, _pattern_fields(catalogue.image_pattern)
    for row in map(int, chosen):
        line, cell = table.lines[row], cells[row]
        values = tuple("" if column[row] in unknown else column[row] for column in labels)
        if pattern and not cell and all(columns[name][row] for name in fields if name in columns):
            cell = _fill(pattern, {name: columns[name][row] for name in fields if name in columns})
        candidate = _Candidate(line, ids[row] or f"line {line}", titles[row], values, "", cell)
        if splits is not None:
            named = SPLIT_NAMES.get(splits[row].casefold())
            if named is None:
                issues.append(candidate.issue("unknown_split", splits[row] or "(empty)"))
                continue
            candidate = _Candidate(line, candidate.row_id, titles[row], values, named, cell)
        if any(values[:published]):
            yield candidate
        else:
            issues.append(candidate.issue("no_label"))


def _fill(pattern: str, values: dict[str, str]) -> str:
    """The pattern with its columns in place; plain substitution, so that a cell can do nothing but appear."""
    parts = string.Formatter().parse(pattern)
    return "".join(literal + (values.get(name, "") if name else "") for literal, name, _, _ in parts)


def _kept(
    candidates: list[_Candidate], reasons: list[str], issues: list[RowIssue], wants_photos: bool, wants_titles: bool
) -> Iterator[int]:
    """Indices of the rows with a photo or a title; whatever a row lacks becomes an issue."""
    for i, (row, reason) in enumerate(zip(candidates, reasons, strict=True)):
        if reason and not row.title:
            issues.append(row.issue("no_photo_no_title", reason if wants_photos else ""))
            continue
        if reason and wants_photos:
            issues.append(row.issue(reason, row.photo_cell))
        if wants_titles and not row.title:
            issues.append(row.issue("missing_title"))
        yield i


def _split(rows: list[_Candidate], groups: list[str], seed: int, notes: list[str]) -> NDArray[np.str_]:
    if any(row.split for row in rows):
        split, added = complete_split(np.array([row.split for row in rows], dtype="<U5"), groups, seed=seed)
        notes += added
        return split
    notes.append("split by title (or photo), about 80/10/10; a split column decides it instead")
    return split_rows(groups, seed=seed)
