"""All probabilities of a batch at once: logits of every input pattern to calibrated probabilities of every attribute.

Owns the arithmetic of the serving path: some fifty array operations for a whole batch, where one attribute at a time would take
hundreds an item. `LabelLayout.probabilities` is the same for one attribute at a temperature of choice, which is what
calibration needs; a test holds the two together. Refuses to know thresholds and decisions.

Labels are the first axis of every array here: a sum over labels is then one of long rows, which takes a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.items import Pattern
from app.engine.label_layout import Floats, LabelLayout

Indices = NDArray[np.int64]
Temperatures = Mapping[Pattern, Mapping[str, float]]
PATTERNS: tuple[Pattern, ...] = ("both", "image", "text")
OUTPUT_OF_PATTERN: Mapping[Pattern, str] = {"both": "fused", "image": "image", "text": "text"}
"""Prefix of the network's outputs that a pattern's answers are computed from."""
RULED_OUT = 2.0
"""Taken off a probability to rank it below every other."""
_NARROW = 64
"""Attributes with at most so many labels are worked out side by side, padded to the widest of them; the others likewise."""


@dataclass(slots=True)
class Scores:
    """Of B items and P patterns (`patterns`, those whose logits there are), with attributes in the table's groups.

    `groups`: the probabilities, float64[width, attributes of the group, B, P] each, 0 beyond an attribute's labels; `path`
    int64[B, P], the likeliest of the hierarchy's; `outside` float64[conditional attributes, B, P], the probability that the
    attribute does not belong to the item; `cosine` float64[B] between the photo's and the title's embedding, where there are
    both. `worked_out`: what was made of them, by name, for the items that follow.
    """

    patterns: Mapping[Pattern, int]
    groups: Sequence[Floats]
    path: Indices
    outside: Floats
    cosine: Floats | None
    worked_out: dict[Any, Any] = field(default_factory=dict)


class FlatGroup:
    """Attributes of alike width that belong to no hierarchy. `rows`: their places among all attributes; `beyond` float64[rows,
    width], `RULED_OUT` where an attribute has no label."""

    def __init__(self, layout: LabelLayout, rows: Sequence[int], temperature: Temperatures, *, absent: int) -> None:
        """`absent`: the place of a logit that stands for no label."""
        attributes = [layout.layouts[layout.attributes[row]] for row in rows]
        self.rows = np.array(rows)
        self.width = max(len(attribute.labels) for attribute in attributes)
        self._logit = np.full((self.width, len(rows)), absent)
        self.beyond = np.full((len(rows), self.width), RULED_OUT)
        for place, attribute in enumerate(attributes):
            self._logit[: attribute.size, place] = np.arange(attribute.offset, attribute.offset + attribute.size)
            self.beyond[place, : attribute.size] = 0.0
        self._sharpness = _sharpness(temperature, [attribute.name for attribute in attributes])

    def probabilities(self, logits: Floats, present: Sequence[int]) -> Floats:
        """float64[width, rows, B, P] of logits float64[L + 1, B, P]."""
        return _softmax(logits.take(self._logit, axis=0), self._sharpness, present)


class Hierarchy:
    """The levels that are answered, from coarse to fine; a group of attributes as `FlatGroup` is.

    `conditional`: by row the attributes that do not belong to every path. `label_of_path` int64[paths, levels]. `strangers`
    float64[levels, labels of the level above, width]: `RULED_OUT` where the label is another parent's or there is none; to the
    coarsest level all is one parent's.
    """

    def __init__(self, layout: LabelLayout, names: Sequence[str], temperature: Temperatures) -> None:
        levels = [layout.layouts[name] for name in names]
        self.rows = np.array([layout.attributes.index(name) for name in names])
        self.width = max(len(level.labels) for level in levels)
        self.paths = slice(levels[-1].offset, levels[-1].offset + levels[-1].size)
        self._logit = np.repeat(np.arange(self.paths.start, self.paths.stop)[:, None], len(levels), axis=1)
        self._sharpness = _sharpness(temperature, names)
        self.label_of_path = np.stack([level.members.argmax(axis=1) for level in levels if level.members is not None], axis=1)
        finest = len(levels) - 1
        outside = {}
        if names[-1] == layout.hierarchy[-1]:
            found = {layout.attributes.index(name): np.flatnonzero(flags == 0) for name, flags in layout.applies.items()}
            outside = {row: paths for row, paths in found.items() if paths.size}
        self.conditional = {row: place for place, row in enumerate(outside)}
        # Every label, and every attribute that does not belong to some paths, is a sum over paths; of neighbours in one list,
        # since the rounding of a matrix product would depend on how many items there are.
        sums = [
            (label * len(levels) + number, np.flatnonzero(self.label_of_path[:, number] == label) * len(levels) + number)
            for number, level in enumerate(levels)
            for label in range(len(level.labels))
        ]
        parts = [*(paths for _, paths in sums), *(paths * len(levels) + finest for paths in outside.values())]
        self._added = np.concatenate(parts)
        self._first = np.cumsum([0, *(part.size for part in parts[:-1])])
        self._place_of_label = np.array([place for place, _ in sums])
        self.strangers = np.full((len(levels), max([1, *(len(level.labels) for level in levels[:-1])]), self.width), RULED_OUT)
        for number, (name, level) in enumerate(zip(names, levels, strict=True)):
            labels = self.strangers[number, :, : len(level.labels)]
            labels[:] = 0.0
            if number and layout.hierarchy.index(name) == layout.hierarchy.index(names[number - 1]) + 1:
                parents = levels[number - 1].labels
                parent = np.array([parents.index(layout.parent_label[name][label]) for label in level.labels])
                labels[:] = np.where(parent == np.arange(len(labels))[:, None], 0.0, RULED_OUT)

    def probabilities(self, logits: Floats, present: Sequence[int]) -> tuple[Floats, Floats]:
        """float64[width, levels, B, P], and float64[conditional attributes, B, P] of not belonging to the item."""
        shape = logits.shape[1:]
        shares = _softmax(logits.take(self._logit, axis=0), self._sharpness, present)
        sums = np.add.reduceat(shares.reshape(-1, *shape).take(self._added, axis=0), self._first)
        values = np.zeros((self.width * len(self.rows), *shape))
        values[self._place_of_label] = sums[: self._place_of_label.size]
        return values.reshape(self.width, len(self.rows), *shape), sums[self._place_of_label.size :]


class ScoreTable:
    """Everything about a bundle's attributes that does not depend on an item; built once, used for every batch."""

    def __init__(self, layout: LabelLayout, temperature: Temperatures) -> None:
        attributes = [layout.layouts[name] for name in layout.attributes]
        self._logits = max(a.offset + a.size for a in attributes)
        flat = [row for row, a in enumerate(attributes) if a.members is None]
        narrow = [row for row in flat if len(attributes[row].labels) <= _NARROW]
        wide = [row for row in flat if len(attributes[row].labels) > _NARROW]
        names = [name for name in layout.hierarchy if name in layout.layouts]
        self.flat = [FlatGroup(layout, rows, temperature, absent=self._logits) for rows in (narrow, wide) if rows]
        self.hierarchy = Hierarchy(layout, names, temperature) if names else None
        self.groups: list[FlatGroup | Hierarchy] = [*self.flat, *([self.hierarchy] if self.hierarchy is not None else [])]
        self.places = [(0, 0)] * len(attributes)
        """Of each attribute: its group, and its place in it."""
        for number, group in enumerate(self.groups):
            for place, row in enumerate(group.rows.tolist()):
                self.places[row] = (number, place)

    def score(self, outputs: Mapping[str, NDArray[Any]]) -> Scores:
        """From a runtime's outputs, B rows each."""
        present = [place for place, pattern in enumerate(PATTERNS) if f"{OUTPUT_OF_PATTERN[pattern]}_logits" in outputs]
        found = [outputs[f"{OUTPUT_OF_PATTERN[PATTERNS[place]]}_logits"] for place in present]
        shape = (len(found[0]), len(found))
        logits = np.full((self._logits + 1, *shape), -np.inf)
        for place, given in enumerate(found):
            logits[:-1, :, place] = given[:, : self._logits].T
        groups = [group.probabilities(logits, present) for group in self.flat]
        path, outside = np.zeros(shape, np.int64), np.zeros((0, *shape))
        if self.hierarchy is not None:
            # One path decides all levels, found on the logits: at their own temperatures levels could disagree.
            path = logits[self.hierarchy.paths].argmax(axis=0)
            levels, outside = self.hierarchy.probabilities(logits, present)
            groups.append(levels)
        cosine = None
        if "image_embedding" in outputs and "text_embedding" in outputs:
            cosine = np.asarray((outputs["image_embedding"] * outputs["text_embedding"]).sum(axis=-1), np.float64)
        names: dict[Pattern, int] = {PATTERNS[place]: number for number, place in enumerate(present)}
        return Scores(names, groups, path, outside, cosine)

    def overlap(self, scores: Scores) -> Floats:
        """float64[A, B]: the probability that the photo alone and the title alone would name one label. Worked out once."""
        known: Floats | None = scores.worked_out.get("overlap")
        if known is not None:
            return known
        image, text = scores.patterns["image"], scores.patterns["text"]
        overlap = np.empty((len(self.places), len(scores.path)))
        for group, values in zip(self.groups, scores.groups, strict=True):
            overlap[group.rows] = (values[..., image] * values[..., text]).sum(axis=0)
        scores.worked_out["overlap"] = overlap
        return overlap


def _sharpness(temperature: Temperatures, names: Sequence[str]) -> Floats:
    """float64[names, patterns]."""
    return np.array([[1.0 / temperature[pattern][name] for pattern in PATTERNS] for name in names])


def _softmax(logits: Floats, sharpness: Floats, present: Sequence[int]) -> Floats:
    """Over the first axis of float64[labels, rows, B, P], in place; each row and pattern with a sharpness of its own."""
    # Written out for every item: the last axes are so short that broadcasting along them takes five times as long.
    logits *= np.repeat(sharpness[:, None, present], logits.shape[2], axis=1)
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


def one_item(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """An item's rows of the outputs as a batch of one."""
    return {name: np.asarray(value)[None] for name, value in outputs.items()}
