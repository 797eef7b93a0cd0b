"""Label columns to the heads of the network, and back.

Owns the layout of the logits: which head is where, which label has which index, which path of the hierarchy a row is on.
Refuses to know photos, titles and networks. The published part of it is the bundle's `labels.json`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
LabelColumn: TypeAlias = Sequence[str] | NDArray[np.object_]


@dataclass(frozen=True)
class Head:
    """One softmax, the slice `[offset, offset + size)` of the logits.

    A hierarchy head has `levels` (coarse to fine) and a softmax over whole `paths`; a flat one has one level and paths
    of length one.
    """

    levels: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    offset: int
    auxiliary: bool = False

    @property
    def size(self) -> int:
        return len(self.paths)

    def level_labels(self, level: int) -> tuple[str, ...]:
        """Distinct labels of a level, in a fixed order (of first appearance in the sorted paths)."""
        return tuple(dict.fromkeys(path[level] for path in self.paths))

    def level_index(self, level: int) -> NDArray[np.int64]:
        """int64[size]: for every path, the index of its label within `level_labels(level)`."""
        index = {label: i for i, label in enumerate(self.level_labels(level))}
        return np.array([index[path[level]] for path in self.paths])


@dataclass(frozen=True)
class LabelSpace:
    """All heads in the order of the logits: published ones first, so that the export cuts the auxiliary ones off."""

    heads: tuple[Head, ...]
    attributes: tuple[str, ...]
    contradicting_rows: int
    """Training rows whose coarse label is not the usual parent of their fine one; the fine label is believed."""

    @property
    def logits_width(self) -> int:
        return sum(head.size for head in self.heads)

    @property
    def published_width(self) -> int:
        return sum(head.size for head in self.heads if not head.auxiliary)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names of `encode`'s result: each head's levels in turn."""
        return tuple(level for head in self.heads for level in head.levels)

    @property
    def published_labels(self) -> list[str]:
        """Names of all levels of all published heads; a name may come more than once."""
        return [label for head in self.heads if not head.auxiliary for path in head.paths for label in path]

    def labels_of(self, attribute: str) -> tuple[str, ...]:
        for head in self.heads:
            if attribute in head.levels:
                return head.level_labels(head.levels.index(attribute))
        raise KeyError(attribute)

    def encode(self, labels: Mapping[str, LabelColumn], rows: int) -> NDArray[np.int32]:
        """int32[rows, len(columns)]: index of each row's label within its attribute's labels, -1 where unknown.

        In a hierarchy head the finest known label decides and fills in its parents.
        """
        encoded = np.full((rows, len(self.columns)), UNKNOWN, np.int32)
        column = 0
        for head in self.heads:
            lookups = [{label: i for i, label in enumerate(head.level_labels(k))} for k in range(len(head.levels))]
            ancestry: list[dict[str, tuple[str, ...]]] = [
                {path[k]: path[: k + 1] for path in head.paths} for k in range(len(head.levels))
            ]
            for row in range(rows):
                for k in reversed(range(len(head.levels))):
                    known = ancestry[k].get(str(labels[head.levels[k]][row]))
                    if known is not None:
                        for level, label in enumerate(known):
                            encoded[row, column + level] = lookups[level][label]
                        break
            column += len(head.levels)
        return encoded

    def to_json(self, applies: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
        """The bundle's `labels.json`, auxiliary heads left out."""
        heads: list[dict[str, Any]] = []
        for head in self.heads:
            if head.auxiliary:
                continue
            if len(head.levels) > 1:
                heads.append(
                    {
                        "kind": "hierarchy",
                        "offset": head.offset,
                        "size": head.size,
                        "levels": list(head.levels),
                        "paths": [list(path) for path in head.paths],
                    }
                )
            else:
                heads.append(
                    {
                        "kind": "flat",
                        "attribute": head.levels[0],
                        "offset": head.offset,
                        "size": head.size,
                        "labels": [path[0] for path in head.paths],
                    }
                )
        return {
            "format_version": 1,
            "attributes": list(self.attributes),
            "heads": heads,
            "applies": {name: list(map(bool, flags)) for name, flags in applies.items()},
        }


def build_label_space(
    labels: Mapping[str, LabelColumn],
    train_rows: Sequence[int] | NDArray[np.int64],
    *,
    label_columns: Sequence[str],
    auxiliary_columns: Sequence[str] = (),
    hierarchy: Sequence[str] = (),
) -> LabelSpace:
    """Lay out the heads from the labels that the training rows hold ("" is unknown).

    Raises ValueError when a label column holds no label at all in the training rows.
    """
    heads: list[Head] = []
    offset = contradictions = 0
    if hierarchy:
        paths, contradictions = _paths([labels[level] for level in hierarchy], train_rows)
        heads.append(Head(tuple(hierarchy), paths, offset))
        offset += len(paths)
    for column in [*label_columns, *auxiliary_columns]:
        if column in hierarchy:
            continue
        values = sorted({str(labels[column][row]) for row in train_rows} - {""})
        if not values:
            raise ValueError(f"label column {column!r} has no label in any training row")
        heads.append(Head((column,), tuple((v,) for v in values), offset, auxiliary=column in auxiliary_columns))
        offset += len(values)
    attributes = tuple(dict.fromkeys([*reversed(tuple(hierarchy)), *label_columns]))
    return LabelSpace(tuple(heads), attributes, contradictions)


def matching_columns(space: LabelSpace, labels_json: Mapping[str, Any]) -> NDArray[np.int64]:
    """int64[published_width]: where the logits of a bundle with this `labels.json` hold each path and label of `space`, -1
    where they do not."""
    theirs: dict[tuple[Any, ...], int] = {}
    for head in labels_json["heads"]:
        levels = tuple(head.get("levels") or [head["attribute"]])
        paths = head.get("paths") or [[label] for label in head["labels"]]
        theirs |= {(levels, tuple(path)): head["offset"] + i for i, path in enumerate(paths)}
    published = (head for head in space.heads if not head.auxiliary)
    return np.array([theirs.get((head.levels, path), -1) for head in published for path in head.paths])


def applicability(
    space: LabelSpace,
    encoded: NDArray[np.int32],
    train_rows: NDArray[np.int64],
    *,
    min_rows: int = 20,
    max_coverage: float = 0.02,
) -> dict[str, list[bool]]:
    """Which flat attributes belong to which path of the hierarchy, by how often training rows of that path have one.

    An attribute does not belong where fewer than `max_coverage` of at least `min_rows` rows carry a label; a path with
    fewer rows borrows its parent's rate. Attributes that belong everywhere are left out.
    """
    hierarchy = next((head for head in space.heads if len(head.levels) > 1), None)
    if hierarchy is None:
        return {}
    columns = space.columns
    path_of_row = encoded[train_rows, columns.index(hierarchy.levels[-1])]
    finest = hierarchy.level_index(len(hierarchy.levels) - 1)
    result: dict[str, list[bool]] = {}
    for head in space.heads:
        if head is hierarchy or head.auxiliary:
            continue
        known = encoded[train_rows, columns.index(head.levels[0])] != UNKNOWN
        flags = []
        for path in range(hierarchy.size):
            chosen = path_of_row == finest[path]
            for level in reversed(range(len(hierarchy.levels) - 1)):
                if chosen.sum() >= min_rows:
                    break
                column = columns.index(hierarchy.levels[level])
                chosen = encoded[train_rows, column] == hierarchy.level_index(level)[path]
            flags.append(bool(chosen.sum() < min_rows or known[chosen].mean() >= max_coverage))
        if not all(flags):
            result[head.levels[0]] = flags
    return result


def _paths(
    levels: Sequence[LabelColumn], train_rows: Sequence[int] | NDArray[np.int64]
) -> tuple[tuple[tuple[str, ...], ...], int]:
    """Every finest label with its usual parents; rows that say otherwise are counted."""
    usual: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for row in train_rows:
        path = tuple(str(level[row]) for level in levels)
        if all(path):
            usual[path[-1]][path[:-1]] += 1
    # One parent per node on every level, not only at the leaves: resolve from coarse to fine.
    parent_of: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in levels]
    for leaf, parents in usual.items():
        for path, count in parents.items():
            full = (*path, leaf)
            for k in range(1, len(full)):
                parent_of[k][full[k]][full[k - 1]] += count
    paths = []
    for leaf in usual:
        upwards = [leaf]
        for k in range(len(levels) - 1, 0, -1):
            upwards.append(parent_of[k][upwards[-1]].most_common(1)[0][0])
        paths.append(tuple(reversed(upwards)))
    ordered = tuple(sorted(paths))
    parents_by_leaf = {path[-1]: path[:-1] for path in ordered}
    contradictions = sum(
        count for leaf, parents in usual.items() for path, count in parents.items() if path != parents_by_leaf[leaf]
    )
    if not ordered:
        raise ValueError("no training row has a label on every level of the hierarchy")
    return ordered, contradictions
