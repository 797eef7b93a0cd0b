"""The one shape in which training sees any catalogue, and the way to it.

Owns `Catalogue`, and what every kind of source shares: rare labels, counts, the report. The kinds are modules beside
this one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.config import RunConfig
from scripts.data.errors import CatalogueError
from scripts.data.report import CatalogueReport
from scripts.data.rows import SourceRows

__all__ = ["Catalogue", "CatalogueError", "load_catalogue"]


@dataclass(frozen=True)
class Catalogue:
    """N rows, every row with a photo, a title, or both, and at least one label.

    `photos` is uint8[N, H, W, 3], often a read-only memory map, zeros where `photo_present` (bool[N]) is False; titles
    are raw, "" where there is none; `labels` maps every column to N strings, "" where unknown. `split` is "train",
    "val" or "test". `extra_photos` uint8[M, H, W, 3] are further photos of the training rows `extra_rows` (int64[M]).
    """

    photos: NDArray[np.uint8]
    photo_present: NDArray[np.bool_]
    titles: list[str]
    labels: Mapping[str, NDArray[np.object_]]
    row_ids: list[str]
    split: NDArray[np.str_]
    extra_photos: NDArray[np.uint8]
    extra_rows: NDArray[np.int64]
    report: CatalogueReport
    config: RunConfig
    """The config as this catalogue fulfils it: absent optional columns, columns without labels, and branches without
    data are gone from it. What is trained and published follows from this one."""
    photo_cells: Sequence[str] = ()
    """What each row calls its photo, to find it in `extra_photos` sources too; empty where the source has no names."""


def load_catalogue(config: RunConfig, *, cache_dir: Path, limit: int | None = None) -> Catalogue:
    """Read the catalogue that `config` describes; decoded photos are kept under `cache_dir` for the next start.

    `limit` takes that many rows, evenly spaced, for a quick try.

    Raises:
        CatalogueError: the source cannot be read, a column is missing, or no row can be trained on. Bad rows are no
            error: they are in the report.
    """
    if limit is not None and limit < 1:
        raise CatalogueError(f"the row limit must be at least 1, not {limit}")
    # Each kind pulls in its own libraries; a CSV user waits for neither Keras nor TensorFlow Datasets.
    if config.catalogue.kind == "mnist":
        from scripts.data.mnist import read_mnist

        rows = read_mnist(config, limit=limit)
    elif config.catalogue.kind == "tfds":
        from scripts.data.tfds import read_tfds

        rows = read_tfds(config, cache_dir=cache_dir, limit=limit)
    else:
        from scripts.data.catalogue_table import read_catalogue_table

        rows = read_catalogue_table(config, cache_dir=cache_dir, limit=limit)
    return _finish(config, rows)


def _finish(config: RunConfig, rows: SourceRows) -> Catalogue:
    train = rows.split == "train"
    if not train.any():
        raise CatalogueError(f"{rows.source} leaves no row to train on: all its rows are bad or held out.")
    notes = list(rows.notes)
    counts: dict[str, Counter[str]] = {}
    rare: dict[str, dict[str, int]] = {}
    unlearnable: dict[str, dict[str, int]] = {}
    for column, values in rows.labels.items():
        count = Counter(values[train])
        del count[""]
        too_rare = {label for label, n in count.items() if n < config.catalogue.min_label_count}
        if too_rare:
            rare[column] = {label: count.pop(label) for label in sorted(too_rare)}
        lost = {
            split: sum(1 for label in values[rows.split == split] if label and label not in count) for split in ("val", "test")
        }
        if any(lost.values()):
            unlearnable[column] = {split: n for split, n in lost.items() if n}
        if too_rare:
            values[[label in too_rare for label in values]] = ""
        counts[column] = count
        notes += _spelling_notes(column, count)
    empty = [column for column, count in counts.items() if not count]
    for column in empty:
        notes.append(f"column {column!r} has no usable label in the training rows and is left out")
    if not config.catalogue.label_columns:  # MNIST and TensorFlow data sets know their own
        known = tuple(column for column in rows.labels if column not in config.catalogue.auxiliary_columns)
        config = replace(config, catalogue=replace(config.catalogue, label_columns=known))
    config = _without_columns(config, [*rows.absent_columns, *empty])
    if not config.catalogue.label_columns:
        raise CatalogueError(f"{rows.source} has no usable label in any label column of its training rows.")
    labels = {column: values for column, values in rows.labels.items() if column not in empty}
    config = _without_branches(config, photos=bool(rows.photo_present.any()), titles=any(rows.titles), notes=notes)
    report = CatalogueReport(
        source=rows.source,
        rows_read=rows.rows_read,
        rows_per_split={name: int((rows.split == name).sum()) for name in ("train", "val", "test")},
        photos=int(rows.photo_present.sum()),
        titles=sum(1 for title in rows.titles if title),
        extra_photos=len(rows.extra_rows),
        issues=sorted(rows.issues, key=lambda issue: issue.line),
        label_counts={column: dict(counts[column].most_common()) for column in labels},
        rare_labels=rare,
        unlearnable_rows=unlearnable,
        notes=notes,
    )
    return Catalogue(
        rows.photos,
        rows.photo_present,
        rows.titles,
        labels,
        rows.row_ids,
        rows.split,
        rows.extra_photos,
        rows.extra_rows,
        report,
        config,
        rows.photo_cells,
    )


def _spelling_notes(column: str, labels: Mapping[str, int]) -> list[str]:
    """Labels that a person would call one: they differ in case or spaces only."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        spellings[" ".join(label.casefold().split())].append(label)
    several = [sorted(names) for names in spellings.values() if len(names) > 1]
    shown = "; ".join(" / ".join(names) for names in several[:5])
    return [f"column {column!r} has labels that differ in case or spaces only: {shown}"] if several else []


def _without_columns(config: RunConfig, absent: Sequence[str]) -> RunConfig:
    def keep(columns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(column for column in columns if column not in absent)

    old = config.catalogue
    hierarchy = keep(old.hierarchy)
    catalogue = replace(
        old,
        label_columns=keep(old.label_columns),
        auxiliary_columns=keep(old.auxiliary_columns),
        hierarchy=hierarchy if len(hierarchy) > 1 else (),
        split_column=None if old.split_column in absent else old.split_column,
    )
    return replace(config, catalogue=catalogue)


def _without_branches(config: RunConfig, *, photos: bool, titles: bool, notes: list[str]) -> RunConfig:
    network = config.network
    if not photos and network.image_height:
        notes.append("there are no photos: the model is trained without an image branch")
        network = replace(network, image_height=0, image_width=0)
    if not titles and network.max_tokens:
        notes.append("there are no titles: the model is trained without a text branch")
        network = replace(network, max_tokens=0)
    return replace(config, network=network)
