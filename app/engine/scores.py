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
PATTERNS: tuple[Pattern, ...] = ("both", "image", "text")
OUTPUT_OF_PATTERN: Mapping[Pattern, str] = {"both": "fused", "image": "image", "text": "text"}
"""Prefix of the network's outputs that a pattern's answers are computed from."""
RULED_OUT = 2.0
"""Taken off a probability to rank it below every other."""
_NARROW = 64
"""Attributes with at most so many labels are worked out side by side, padded to the widest of them; the others likewise."""


@dataclass(slots=True)
class Scores:
    """Of B items and P patterns (`patterns`, those whose logits there are), with A attributes in groups of alike widths.

    `groups`: the probabilities, float64[width, attributes of the group, B, P] each, 0 beyond an attribute's labels; `path`
    int64[B, P], the likeliest of the hierarchy's; `outside` float64[A, B, P], the probability that the attribute does not
    belong to the item; `cosine` float64[B] between the photo's and the title's embedding, where there are both. `worked_out`:
    what was made of them, by name, for the items that follow.
    """

    patterns: Mapping[Pattern, int]
    groups: Sequence[Floats]
    path: Indices
    outside: Floats
    cosine: Floats | None
    worked_out: dict[Any, Any] = field(default_factory=dict)


class Group:
    """Attributes of alike width: `rows`, their places among all, the flat ones first. `logit` int64[width, flat ones], where
    each label's logit is; `beyond` float64[rows, width], `RULED_OUT` where an attribute has no label."""

    def __init__(self, layout: LabelLayout, rows: Sequence[int], *, absent: int) -> None:
        """`absent`: the place of a logit that stands for no label."""
        attributes = {row: layout.layouts[layout.attributes[row]] for row in rows}
        self.rows = sorted(rows, key=lambda row: attributes[row].members is not None)
        self.width = max(len(attribute.labels) for attribute in attributes.values())
        self.flat = [attributes[row] for row in self.rows if attributes[row].members is None]
        self.logit = np.full((self.width, len(self.flat)), absent)
        for place, attribute in enumerate(self.flat):
            self.logit[: attribute.size, place] = np.arange(attribute.offset, attribute.offset + attribute.size)
        is_beyond = np.array([np.arange(self.width) >= len(attributes[row].labels) for row in self.rows])
        self.beyond = RULED_OUT * is_beyond


class Level:
    """A level of the hierarchy: `row`, its place among the attributes; `group` and `place`, that of its probabilities; and
    `label_of_path` int64[paths]. `strangers` float64[labels of the level above, width]: `RULED_OUT` where the label is another
    parent's."""

    def __init__(self, layout: LabelLayout, name: str, place: tuple[int, int], width: int) -> None:
        attribute = layout.layouts[name]
        assert attribute.members is not None  # noqa: S101  (it is a level)
        self.row = layout.attributes.index(name)
        self.group, self.place = place
        self.labels = len(attribute.labels)
        self.label_of_path: Indices = attribute.members.argmax(axis=1)
        # Sums of neighbours, here and elsewhere: a matrix product's rounding depends on how many items there are.
        self.by_label = np.argsort(self.label_of_path, kind="stable")
        self.first = np.searchsorted(self.label_of_path[self.by_label], np.arange(self.labels))
        self.strangers: Floats | None = None
        above = layout.hierarchy.index(name) - 1
        if above >= 0 and layout.hierarchy[above] in layout.layouts:
            parents = layout.layouts[layout.hierarchy[above]].labels
            parent = [parents.index(layout.parent_label[name][label]) for label in attribute.labels]
            self.strangers = np.zeros((len(parents), width))
            self.strangers[:, : self.labels] = RULED_OUT * (np.arange(len(parents))[:, None] != parent)


class ScoreTable:
    """Everything about a bundle's attributes that does not depend on an item; built once, used for every batch."""

    def __init__(self, layout: LabelLayout, temperature: Mapping[Pattern, Mapping[str, float]]) -> None:
        attributes = [layout.layouts[name] for name in layout.attributes]
        self._logits = max(a.offset + a.size for a in attributes)
        narrow = [row for row, a in enumerate(attributes) if len(a.labels) <= _NARROW]
        wide = [row for row, a in enumerate(attributes) if len(a.labels) > _NARROW]
        self.groups = [Group(layout, rows, absent=self._logits) for rows in (narrow, wide) if rows]
        self.places = [(0, 0)] * len(attributes)
        """Of each attribute: its group, and its place in it."""
        for number, group in enumerate(self.groups):
            for place, row in enumerate(group.rows):
                self.places[row] = (number, place)

        def sharpness(names: Sequence[str]) -> Floats:
            return np.array([[1.0 / temperature[pattern][name] for pattern in PATTERNS] for name in names])

        self._sharpness = [sharpness([a.name for a in group.flat]) for group in self.groups]
        names = [name for name in layout.hierarchy if name in layout.layouts]
        self.levels: list[Level] = []
        for name in names:
            number, place = self.places[layout.attributes.index(name)]
            self.levels.append(Level(layout, name, (number, place), self.groups[number].width))
        if names:
            finest = layout.layouts[names[-1]]
            self._paths = slice(finest.offset, finest.offset + finest.size)
            self._level_sharpness = sharpness(names)
        has_kind = bool(layout.hierarchy) and layout.hierarchy[-1] in layout.layouts
        self._conditional = [row for row, name in enumerate(layout.attributes) if has_kind and name in layout.applies]
        outside = [1.0 - layout.applies[layout.attributes[row]] for row in self._conditional]
        # float64[paths, conditional attributes, 1, 1]
        self._outside = np.array(outside).T[..., None, None]

    def score(self, outputs: Mapping[str, NDArray[Any]]) -> Scores:
        """From a runtime's outputs, B rows each."""
        present = [place for place, pattern in enumerate(PATTERNS) if f"{OUTPUT_OF_PATTERN[pattern]}_logits" in outputs]
        found = [outputs[f"{OUTPUT_OF_PATTERN[PATTERNS[place]]}_logits"] for place in present]
        shape = (len(found[0]), len(found))
        kept = slice(None) if len(present) == len(PATTERNS) else present
        logits = np.full((self._logits + 1, *shape), -np.inf)
        for place, given in enumerate(found):
            logits[:-1, :, place] = given[:, : self._logits].T
        groups = []
        for group, sharpness in zip(self.groups, self._sharpness, strict=True):
            values = np.zeros((group.width, len(group.rows), *shape))
            if group.flat:
                scaled = logits.take(group.logit, axis=0)
                scaled *= sharpness[:, None, kept]
                values[:, : len(group.flat)] = _softmax(scaled, axis=0)
            groups.append(values)
        path, outside = np.zeros(shape, np.int64), np.zeros((len(self.places), *shape))
        if self.levels:
            paths = logits[self._paths]
            # One path decides all levels, found on the logits: at their own temperatures levels could disagree.
            path = paths.argmax(axis=0)
            shares = _softmax(paths * self._level_sharpness[:, None, None, kept], axis=1)
            for level, share in zip(self.levels, shares, strict=True):
                groups[level.group][: level.labels, level.place] = np.add.reduceat(
                    share.take(level.by_label, axis=0), level.first
                )
            if self._conditional:
                outside[self._conditional] = (shares[-1][:, None] * self._outside).sum(axis=0)
        cosine = None
        if "image_embedding" in outputs and "text_embedding" in outputs:
            cosine = np.asarray((outputs["image_embedding"] * outputs["text_embedding"]).sum(axis=-1), np.float64)
        names: dict[Pattern, int] = {PATTERNS[place]: number for number, place in enumerate(present)}
        return Scores(names, groups, path, outside, cosine)

    def of_attribute(self, scores: Scores, row: int, pattern: Pattern) -> Floats:
        """float64[width, B]: the probabilities of one attribute."""
        group, place = self.places[row]
        return scores.groups[group][:, place, :, scores.patterns[pattern]]

    def overlap(self, scores: Scores) -> Floats:
        """float64[B, A]: the probability that the photo alone and the title alone would name the same label."""
        image, text = scores.patterns["image"], scores.patterns["text"]
        overlap = np.empty((len(scores.path), len(self.places)))
        for group, values in zip(self.groups, scores.groups, strict=True):
            overlap[:, group.rows] = (values[..., image] * values[..., text]).sum(axis=0).T
        return overlap


def _softmax(scaled: Floats, *, axis: int) -> Floats:
    """In place."""
    scaled -= scaled.max(axis=axis, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=axis, keepdims=True)
    return scaled


def one_item(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """An item's rows of the outputs as a batch of one."""
    return {name: np.asarray(value)[None] for name, value in outputs.items()}
