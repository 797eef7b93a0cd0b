"""All probabilities of a batch at once: logits of every input pattern to calibrated probabilities of every attribute.

Owns the arithmetic of the serving path: a few array operations for a whole batch, where one attribute at a time would take
hundreds an item. `LabelLayout.probabilities` is the same for one attribute at a temperature of choice, which is what
calibration needs; a test holds the two together. Refuses to know thresholds and decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.items import Pattern
from app.engine.label_layout import Floats, LabelLayout

PATTERNS: tuple[Pattern, ...] = ("both", "image", "text")
OUTPUT_OF_PATTERN: Mapping[Pattern, str] = {"both": "fused", "image": "image", "text": "text"}
"""Prefix of the network's outputs that a pattern's answers are computed from."""
_NO_LABEL = -1.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Of B items and P patterns (`patterns`, those whose logits there are), with A attributes of at most W labels.

    `probabilities` float64[B, P, A, W], -1 beyond an attribute's labels; `best` int64[B, P, A], the answered label's index
    (in a hierarchy those of the best path); `outside` float64[B, P, A], the probability that the attribute does not belong to
    the item; `cosine` float64[B] between the photo's and the title's embedding, where there are both.
    """

    patterns: Mapping[Pattern, int]
    probabilities: Floats
    best: NDArray[np.int64]
    outside: Floats
    cosine: Floats | None


class ScoreTable:
    """Everything about a bundle's attributes that does not depend on an item; built once, used for every batch."""

    def __init__(self, layout: LabelLayout, temperature: Mapping[Pattern, Mapping[str, float]]) -> None:
        attributes = [layout.layouts[name] for name in layout.attributes]
        sizes = [attribute.size for attribute in attributes]
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self._segment = np.repeat(np.arange(len(attributes)), sizes)
        self._logit = np.concatenate([np.arange(a.offset, a.offset + a.size) for a in attributes])
        self._temperature = {
            pattern: np.repeat([temperature[pattern][name] for name in layout.attributes], sizes) for pattern in PATTERNS
        }
        self._width = max(len(attribute.labels) for attribute in attributes)
        # Flat attributes are copied from their segment to their row of labels; the levels of a hierarchy are summed.
        self._flat = [
            (row, start, a.size)
            for row, (start, a) in enumerate(zip(self._starts.tolist(), attributes, strict=True))
            if a.members is None
        ]
        self._levels = [
            (row, start, a.size, a.members, a.members.argmax(axis=1))
            for row, (start, a) in enumerate(zip(self._starts.tolist(), attributes, strict=True))
            if a.members is not None
        ]
        self._outside = self._outside_table(layout)

    def _outside_table(self, layout: LabelLayout) -> tuple[int, Floats] | None:
        """The row of the finest level, and float64[paths, A]: 1 where the attribute does not belong to the path."""
        if not layout.applies or not layout.hierarchy or layout.hierarchy[-1] not in layout.attributes:
            return None
        paths = len(layout.hierarchy_paths)
        table = np.zeros((paths, len(layout.attributes)))
        for column, name in enumerate(layout.attributes):
            if name in layout.applies:
                table[:, column] = 1.0 - layout.applies[name]
        return layout.attributes.index(layout.hierarchy[-1]), table

    def score(self, outputs: Mapping[str, NDArray[Any]]) -> Scores:
        """From a runtime's outputs, B rows each."""
        present = [pattern for pattern in PATTERNS if f"{OUTPUT_OF_PATTERN[pattern]}_logits" in outputs]
        logits = np.stack([outputs[f"{OUTPUT_OF_PATTERN[pattern]}_logits"] for pattern in present], axis=1)
        shares = logits.take(self._logit, axis=-1).astype(np.float64)
        shares /= np.stack([self._temperature[pattern] for pattern in present])
        shares -= np.maximum.reduceat(shares, self._starts, axis=-1).take(self._segment, axis=-1)
        np.exp(shares, out=shares)
        shares /= np.add.reduceat(shares, self._starts, axis=-1).take(self._segment, axis=-1)
        probabilities = np.full((*shares.shape[:2], len(self._starts), self._width), _NO_LABEL)
        for row, start, size in self._flat:
            probabilities[:, :, row, :size] = shares[:, :, start : start + size]
        for row, start, size, members, _ in self._levels:
            probabilities[:, :, row, : members.shape[1]] = shares[:, :, start : start + size] @ members
        best = probabilities.argmax(axis=-1)
        if self._levels:
            # One path decides all levels, found on the logits: at their own temperatures levels could disagree.
            _, start, size, _, _ = self._levels[0]
            path = logits[:, :, self._logit[start] : self._logit[start] + size].argmax(axis=-1)
            for row, _, _, _, label_of_path in self._levels:
                best[:, :, row] = label_of_path[path]
        outside = np.zeros(probabilities.shape[:3])
        if self._outside is not None:
            row, table = self._outside
            start, size = int(self._starts[row]), table.shape[0]
            outside = shares[:, :, start : start + size] @ table
        cosine = None
        if "image_embedding" in outputs and "text_embedding" in outputs:
            cosine = np.asarray((outputs["image_embedding"] * outputs["text_embedding"]).sum(axis=-1), np.float64)
        return Scores({pattern: i for i, pattern in enumerate(present)}, probabilities, best, outside, cosine)


def ranked(probabilities: Floats, count: int) -> tuple[list[list[int]], list[list[float]]]:
    """The `count` greatest values of each row of float64[A, W], greatest first: their columns, and the values."""
    rows, width = probabilities.shape
    if count >= width:
        columns = np.argsort(-probabilities, axis=1, kind="stable")
    else:
        columns = np.argpartition(probabilities, width - count, axis=1)[:, width - count :]
        columns.sort(axis=1)  # equal values in the order of the labels
    first = np.arange(0, rows * width, width)[:, None]
    values = probabilities.ravel().take(columns + first)
    order = np.argsort(-values, axis=1, kind="stable")
    place = order + np.arange(0, order.size, order.shape[1])[:, None]
    return columns.ravel().take(place).tolist(), values.ravel().take(place).tolist()


def one_item(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """An item's rows of the outputs as a batch of one."""
    return {name: np.asarray(value)[None] for name, value in outputs.items()}
