"""The likeliest labels of every attribute, for a batch at once.

Owns which label is answered and which are named beside it. Refuses to know decisions, and what a label means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.engine.items import Pattern
from app.engine.label_layout import Floats
from app.engine.scores import Indices, Scores, ScoreTable

_CHOSEN = 4.0
"""The answered label's in place of its probability. It comes first, also where other paths of its parent add up to more."""


@dataclass(frozen=True, slots=True)
class Best:
    """The answered label's index int64[B, A] (in a hierarchy those of the best path) and its probability float64[B, A]."""

    label: Indices
    confidence: Floats


@dataclass(frozen=True, slots=True)
class Ranking:
    """Of one input pattern, in Python's own numbers, which are quicker to read one by one: by group of attributes, item, place
    within the group, and rank. `outside`: by item and attribute."""

    columns: list[list[list[list[int]]]]
    values: list[list[list[list[float]]]]
    outside: list[list[float]]


def best(table: ScoreTable, scores: Scores, pattern: Pattern) -> Best:
    """Worked out for the whole batch when the first of its items asks."""
    known: Best | None = scores.worked_out.get(("best", pattern))
    if known is None:
        known = scores.worked_out["best", pattern] = _best(table, scores, pattern)
    return known


def ranking(table: ScoreTable, scores: Scores, pattern: Pattern, count: int) -> Ranking:
    """Up to `count` labels of every attribute: the answered one first, then the likeliest that do not contradict the
    answered parent. Worked out for the whole batch when the first of its items asks."""
    known: Ranking | None = scores.worked_out.get(("ranking", pattern, count))
    if known is None:
        known = scores.worked_out["ranking", pattern, count] = _rank(table, scores, pattern, count)
    return known


def _by_item(scores: Scores, pattern: Pattern) -> list[Floats]:
    """float64[B, attributes, width] of each group, copied."""
    place = scores.patterns[pattern]
    return [np.ascontiguousarray(values[..., place].transpose(2, 1, 0)) for values in scores.groups]


def _best(table: ScoreTable, scores: Scores, pattern: Pattern) -> Best:
    label = np.empty((len(scores.path), len(table.places)), np.int64)
    confidence = np.empty(label.shape)
    path = scores.path[:, scores.patterns[pattern]]
    by_item = _by_item(scores, pattern)
    for group, values in zip(table.groups, by_item, strict=True):
        label[:, group.rows] = values.argmax(axis=-1)
    for level in table.levels:
        label[:, level.row] = level.label_of_path[path]
    for group, values in zip(table.groups, by_item, strict=True):
        chosen = label[:, group.rows].reshape(-1)
        confidence[:, group.rows] = values.reshape(-1).take(_starts(values) + chosen).reshape(-1, len(group.rows))
    return Best(label, np.minimum(confidence, 1.0, out=confidence))


def _rank(table: ScoreTable, scores: Scores, pattern: Pattern, count: int) -> Ranking:
    pattern_place = scores.patterns[pattern]
    path = scores.path[:, pattern_place]
    by_item = _by_item(scores, pattern)
    items = np.arange(len(path))
    confidences: list[Floats] = []
    label_above = None
    for level in table.levels:
        label, values = level.label_of_path[path], by_item[level.group][:, level.place]
        confidences.append(values[items, label])
        if label_above is not None and level.strangers is not None:
            values -= level.strangers[label_above]
        values[items, label] = _CHOSEN
        label_above = label
    columns, found = [], []
    for group, values in zip(table.groups, by_item, strict=True):
        values -= group.beyond
        labels = np.argsort(-values.reshape(-1, group.width), axis=1)[:, :count]
        shape = (*values.shape[:2], -1)
        columns.append(labels.reshape(shape))
        found.append(values.reshape(-1).take(labels + _starts(values)[:, None]).reshape(shape))
    for level, confidence in zip(table.levels, confidences, strict=True):
        found[level.group][:, level.place, 0] = confidence
    lists = [labels.tolist() for labels in columns], [np.minimum(values, 1.0).tolist() for values in found]
    for group_columns, group_values, values in zip(*lists, found, strict=True):
        if values[..., -1].min() < 0.0:
            _drop_ruled_out(group_columns, group_values)
    return Ranking(*lists, scores.outside[:, :, pattern_place].T.tolist())


def _drop_ruled_out(columns: list[list[list[int]]], values: list[list[list[float]]]) -> None:
    """What is no candidate has come to the end of its list."""
    for item_columns, item_values in zip(columns, values, strict=True):
        for row_columns, row_values in zip(item_columns, item_values, strict=True):
            while row_values[-1] < 0.0:
                row_values.pop()
                row_columns.pop()


def _starts(values: NDArray[np.float64]) -> Indices:
    """Where each row begins."""
    return np.arange(0, values.size, values.shape[-1])
