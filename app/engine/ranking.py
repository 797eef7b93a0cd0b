"""The likeliest labels of every attribute, for a batch at once.

Owns which label is answered and which are named beside it. Refuses to know decisions, and what a label means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.items import Pattern
from app.engine.label_layout import Floats
from app.engine.levels import Indices
from app.engine.scores import PATTERNS, Scores, ScoreTable

_CHOSEN = 4.0
"""The answered label's in place of its probability. It comes first, also where other paths of its parent add up to more."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """For B items, A attributes and K ranks: `labels` int64[B, A, K], each within its attribute, with `confidences` float64[B,
    A, K], below 0 where the attribute has no further candidate. `outside` float64[B, C]: see `Levels.outside`."""

    labels: Indices
    confidences: Floats
    outside: Floats


def best(table: ScoreTable, scores: Scores, pattern: Pattern, items: Indices, rows: Indices) -> tuple[Indices, Floats]:
    """Of N pairs of an item and an attribute: the answered label int64[N], within its attribute, and its probability
    float64[N]."""
    place, pairs = scores.patterns[pattern], np.arange(items.size)
    values, candidates = scores.values[place][items], table.candidates[rows]
    columns = candidates[pairs, values[pairs[:, None], candidates].argmax(axis=-1)]
    if table.levels is not None:
        answered = table.levels.answered[scores.path[place][items], rows]
        columns = np.where(answered >= 0, answered, columns)
    return columns - table.first[rows], np.minimum(values[pairs, columns], 1.0)


def ranking(table: ScoreTable, scores: Scores, patterns: Indices, count: int) -> Ranking:
    """Up to `count` labels of every attribute: the answered one first, then the likeliest that do not contradict the answered
    parent. `patterns` int64[B]: the place in `PATTERNS` of what each item is answered from."""
    place_of = np.array([scores.patterns.get(pattern, 0) for pattern in PATTERNS])
    chosen, levels = (place_of[patterns], np.arange(patterns.size)), table.levels
    values = scores.values[chosen]
    items, (attributes, width) = len(values), table.candidates.shape
    candidates = np.repeat(table.candidates[None], items, axis=0)
    if levels is not None:
        path = scores.path[chosen]
        candidates[:, levels.rows, : levels.candidates.shape[-1]] = levels.candidates[levels.numbers, levels.parent[path]]
    found = values.reshape(-1).take(candidates + np.arange(0, values.size, table.columns)[:, None, None])
    starts = np.arange(0, found.size, width).reshape(items, attributes)
    if levels is not None:
        answered = starts[:, levels.rows] + levels.place[path]
        confidence = found.reshape(-1).take(answered)
        found.reshape(-1)[answered] = _CHOSEN
    places = starts[..., None] + np.argsort(-found, axis=-1)[..., :count]
    labels = candidates.reshape(-1).take(places) - table.first[:, None]
    confidences = found.reshape(-1).take(places)
    if levels is not None:
        confidences[:, levels.rows, 0] = confidence
    outside = levels.outside(values) if levels is not None else np.zeros((items, 0))
    return Ranking(labels, np.minimum(confidences, 1.0, out=confidences), outside)
