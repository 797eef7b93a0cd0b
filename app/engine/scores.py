"""All probabilities of a batch at once: logits of every input pattern to calibrated probabilities of every attribute.

Owns the arithmetic of the serving path: some fifteen array operations for a whole batch, since a lone item pays for each of
them five times what it costs in a loop. `LabelLayout.probabilities` is the same for one attribute at a temperature of choice,
which is what calibration needs; a test holds the two together. Refuses to know thresholds and decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.items import Modality, Pattern
from app.engine.label_layout import Floats, LabelLayout
from app.engine.levels import Indices, Levels

Temperatures = Mapping[Pattern, Mapping[str, float]]
PATTERNS: tuple[Pattern, ...] = ("both", "image", "text")
OUTPUT_OF_PATTERN: Mapping[Pattern, str] = {"both": "fused", "image": "image", "text": "text"}
"""Prefix of the network's outputs that a pattern's answers are computed from."""
INPUTS_OF_PATTERN: tuple[tuple[Modality, ...], ...] = (("image", "text"), ("image",), ("text",))
"""In the order of `PATTERNS`."""
NO_LABEL = -1.0
"""In place of the probability of a label that there is not."""


@dataclass(slots=True)
class Scores:
    """Of B items and P patterns (`patterns`, those whose logits there are): `values` float64[P, B, columns], the probabilities
    in the table's columns; `path` int64[P, B], the likeliest of the hierarchy's; `cosine` float64[B] between the photo's and
    the title's embedding, where there are both. `inputs`: what each item came with. `worked_out`: what was made of them, by
    name, for the items that follow.
    """

    patterns: Mapping[Pattern, int]
    values: Floats
    path: Indices
    cosine: Floats | None
    inputs: Sequence[Sequence[Modality]]
    worked_out: dict[Any, Any] = field(default_factory=dict)


class ScoreTable:
    """Everything about a bundle's attributes that does not depend on an item; built once, used for every batch.

    Columns: the labels that have a logit each, attribute by attribute; the paths of each level whose labels are sums of
    several; those sums; and one that holds `NO_LABEL`. `first` int64[A]: the column of each attribute's first label.
    `candidates` int64[A, W]: the columns of its labels, then `NO_LABEL`'s; a level's depend on the answered parent, and are all
    the latter here. `levels`: None where no level of a hierarchy is answered.
    """

    def __init__(self, layout: LabelLayout, temperature: Temperatures) -> None:
        attributes = [layout.layouts[name] for name in layout.attributes]
        label_of_path = layout.label_of_path()
        level_rows = layout.level_rows
        summed: dict[int, Indices] = {}
        """By row, of the levels whose labels are sums: the paths, those of one label side by side."""
        for row, labels in zip(level_rows, label_of_path.T, strict=True):
            if not np.array_equal(labels, np.arange(labels.size)):
                summed[row] = labels.argsort(kind="stable")
        rows = [*(row for row in range(len(attributes)) if row not in summed), *summed]
        blocks = [attributes[row].offset + summed.get(row, np.arange(attributes[row].size)) for row in rows]
        sizes = [block.size for block in blocks]
        starts = np.cumsum([0, *sizes])
        sums = [len(attributes[row].labels) for row in summed]
        sum_starts = np.cumsum([starts[-1], *sums])
        direct = len(rows) - len(summed)
        self._logits = np.concatenate(blocks)
        """Of every column down to the paths."""
        self._starts, self._direct = starts[:-1], int(starts[direct])
        sharpness = [[1.0 / temperature[pattern][attributes[row].name] for row in rows] for pattern in PATTERNS]
        self._sharpness = np.repeat(sharpness, sizes, axis=1)
        self._block = np.repeat([*range(len(rows)), *range(direct, len(rows))], [*sizes, *sums])
        """Of every column but the last: whose total it is a share of."""
        self._sum_starts = np.concatenate(
            [np.zeros(0, np.int64)]
            + [
                start - self._direct + np.flatnonzero(np.diff(label_of_path[order, level_rows.index(row)], prepend=-1))
                for (row, order), start in zip(summed.items(), starts[direct:-1], strict=True)
            ]
        )
        self.columns = int(sum_starts[-1]) + 1
        self.first = np.zeros(len(attributes), np.int64)
        self.first[rows[:direct]], self.first[[*summed]] = starts[:direct], sum_starts[:-1]
        # The paths are one region, which is nobody's, unless there are none.
        self._regions = np.unique([*starts[: direct + 1], *sum_starts])
        self._region_of_row = np.searchsorted(self._regions, self.first)
        self.levels = None
        if level_rows:
            finest = level_rows[-1]
            place = summed[finest].argsort() if finest in summed else np.arange(len(label_of_path))
            path_columns = starts[rows.index(finest)] + place
            self.levels = Levels(layout, self.first, path_columns, no_label=self.columns - 1)
        flat = [row for row in range(len(attributes)) if row not in level_rows]
        widths = [len(attributes[row].labels) for row in flat]
        width = max([*widths, self.levels.candidates.shape[-1] if self.levels is not None else 1])
        self.candidates = np.full((len(attributes), width), self.columns - 1)
        for row, labels in zip(flat, widths, strict=True):
            self.candidates[row, :labels] = self.first[row] + np.arange(labels)

    def score(self, outputs: Mapping[str, NDArray[Any]], inputs: Sequence[Sequence[Modality]] | None = None) -> Scores:
        """From a runtime's outputs, B rows each. `inputs`: None where all items came with a photo and a title."""
        present = [place for place, pattern in enumerate(PATTERNS) if f"{OUTPUT_OF_PATTERN[pattern]}_logits" in outputs]
        found = [outputs[f"{OUTPUT_OF_PATTERN[PATTERNS[place]]}_logits"] for place in present]
        logits = np.concatenate(found).reshape(len(found), len(found[0]), -1)
        values = np.empty((*logits.shape[:2], self.columns))
        shares = values[..., : self._logits.size]
        np.multiply(logits.take(self._logits, axis=-1), self._sharpness[present, None], out=shares)
        shares -= np.maximum.reduceat(shares, self._starts, axis=-1).take(self._block[: self._logits.size], axis=-1)
        np.exp(shares, out=shares)
        totals = np.add.reduceat(shares, self._starts, axis=-1)
        if self._sum_starts.size:
            np.add.reduceat(shares[..., self._direct :], self._sum_starts, axis=-1, out=values[..., self._logits.size : -1])
        values[..., :-1] /= totals.take(self._block, axis=-1)
        values[..., -1] = NO_LABEL
        # One path decides all levels, found on the logits: at their own temperatures levels could disagree.
        path = np.zeros(logits.shape[:2], np.int64) if self.levels is None else logits[..., self.levels.paths].argmax(axis=-1)
        cosine = None
        if "image_embedding" in outputs and "text_embedding" in outputs:
            cosine = np.asarray((outputs["image_embedding"] * outputs["text_embedding"]).sum(axis=-1), np.float64)
        patterns = {PATTERNS[place]: number for number, place in enumerate(present)}
        return Scores(patterns, values, path, cosine, inputs or [INPUTS_OF_PATTERN[0]] * logits.shape[1])

    def overlap(self, scores: Scores) -> Floats:
        """float64[B, A]: the probability that the photo alone and the title alone would name one label. Worked out once."""
        known: Floats | None = scores.worked_out.get("overlap")
        if known is None:
            image, text = self._sides(scores)
            known = scores.worked_out["overlap"] = self._by_attribute(image * text)
        return known

    def sureness(self, scores: Scores) -> Floats:
        """float64[B, A]: the probability that the photo alone would name the same label twice, and the title alone too. 1 where
        neither leaves a doubt; the overlap is never above its root."""
        image, text = self._sides(scores)
        return self._by_attribute(image * image) * self._by_attribute(text * text)

    def _sides(self, scores: Scores) -> tuple[Floats, Floats]:
        """The probabilities from the photo alone and from the title alone."""
        return scores.values[scores.patterns["image"]], scores.values[scores.patterns["text"]]

    def _by_attribute(self, values: Floats) -> Floats:
        """float64[B, columns] summed over the labels of every attribute, float64[B, A]."""
        return np.asarray(np.add.reduceat(values, self._regions, axis=-1).take(self._region_of_row, axis=-1))


def one_item(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """An item's rows of the outputs as a batch of one."""
    return {name: np.asarray(value)[None] for name, value in outputs.items()}
