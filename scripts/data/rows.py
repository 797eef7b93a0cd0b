"""What a reader of any kind of source hands over, before labels are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scripts.data.report import RowIssue


@dataclass
class SourceRows:
    """N kept rows; the arrays mean what they mean in `scripts.data.catalogue.Catalogue`."""

    source: str
    rows_read: int
    photos: NDArray[np.uint8]
    photo_present: NDArray[np.bool_]
    titles: list[str]
    labels: dict[str, NDArray[np.object_]]
    row_ids: list[str]
    split: NDArray[np.str_]
    extra_photos: NDArray[np.uint8]
    extra_rows: NDArray[np.int64]
    issues: list[RowIssue] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent_columns: Sequence[str] = ()
    photo_cells: Sequence[str] = ()


def no_photos(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """uint8[count, height, width, 3] zeros that take no memory; read-only."""
    return np.broadcast_to(np.zeros((1, height, width, 3), np.uint8), (count, height, width, 3))


def evenly_spaced(count: int, limit: int | None) -> NDArray[np.int64]:
    """Indices of at most `limit` of `count` rows, spread over all of them."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.arange(limit) * count // limit
