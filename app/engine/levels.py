"""What follows from the likeliest path of a hierarchy: a label of each level, and which others may stand beside it.

Owns the tables by path. Refuses to know logits, temperatures and decisions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.engine.label_layout import Floats, LabelLayout

Indices = NDArray[np.int64]


class Levels:
    """The levels that are answered, from coarse to fine.

    `rows` int64[levels]: their places among all attributes; `paths`: where the paths' logits are. `candidates` int64[levels,
    labels of the level above, W]: the columns of the labels under a parent, then `no_label`; of the coarsest level, and of one
    whose parents are not answered, all are one parent's. By path: `parent` int64[paths, levels], the place of its label's
    parent in `candidates`, `place` int64[paths, levels], that of its label in the parent's list, and `answered` int64[paths,
    attributes], its label's column, -1 for other attributes. `conditional` int64[C]: rows of the attributes that do not belong
    to every path. `numbers` int64[levels]: 0, 1, ...
    """

    def __init__(self, layout: LabelLayout, first: Indices, path_columns: Indices, *, no_label: int) -> None:
        """`first` int64[attributes]: the column of each one's first label; `path_columns` int64[paths]: that of each path's
        share at the finest level."""
        names = layout.answered_levels
        labels_of = [layout.layouts[name].labels for name in names]
        finest = layout.layouts[names[-1]]
        self.rows = np.array(layout.level_rows)
        self.paths = slice(finest.offset, finest.offset + finest.size)
        label_of_path = layout.label_of_path()
        self.parent = np.zeros_like(label_of_path)
        lists: list[list[list[int]]] = []
        """Labels by level and parent."""
        for number, (name, labels) in enumerate(zip(names, labels_of, strict=True)):
            if number and layout.hierarchy.index(name) == layout.hierarchy.index(names[number - 1]) + 1:
                parents = self.parent[:, number] = label_of_path[:, number - 1]
                parts = [label_of_path[parents == parent, number] for parent in range(len(labels_of[number - 1]))]
                lists.append([np.unique(part).tolist() for part in parts])
            else:
                lists.append([list(range(len(labels)))])
        width = max(len(children) for level in lists for children in level)
        self.candidates = np.full((len(names), max(map(len, lists)), width), no_label)
        for number, level in enumerate(lists):
            for parent, children in enumerate(level):
                self.candidates[number, parent, : len(children)] = first[self.rows[number]] + np.array(children)
        self.place = np.array(
            [
                [lists[number][parent].index(label) for number, (parent, label) in enumerate(zip(parents, labels, strict=True))]
                for parents, labels in zip(self.parent.tolist(), label_of_path.tolist(), strict=True)
            ]
        )
        self.answered = np.full((len(label_of_path), len(layout.attributes)), -1)
        self.answered[:, self.rows] = first[self.rows] + label_of_path
        outside: dict[int, Indices] = {}
        if names[-1] == layout.hierarchy[-1]:
            found = {layout.attributes.index(name): np.flatnonzero(flags == 0) for name, flags in layout.applies.items()}
            outside = {row: path_columns[paths] for row, paths in found.items() if paths.size}
        self.conditional = np.array(list(outside), np.int64)
        self._outside = np.concatenate([np.zeros(0, np.int64), *outside.values()])
        self._outside_starts = np.cumsum([0, *(columns.size for columns in outside.values())])[:-1]
        self.numbers = np.arange(len(names))

    def outside(self, values: Floats) -> Floats:
        """float64[B, C]: the probability that an attribute does not belong to the item, from float64[B, columns]."""
        if not self.conditional.size:
            return np.zeros((len(values), 0))
        # Sums of neighbours in one list: the rounding of a matrix product would depend on how many items there are.
        return np.asarray(np.add.reduceat(values.take(self._outside, axis=-1), self._outside_starts, axis=-1))
