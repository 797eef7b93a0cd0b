"""The likeliest labels of every attribute, for a batch at once.

Owns which label is answered and which are named beside it. Refuses to know decisions, and what a label means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.items import Pattern
from app.engine.label_layout import Floats
from app.engine.scores import FlatGroup, Indices, Scores, ScoreTable

_CHOSEN = 4.0
"""The answered label's in place of its probability. It comes first, also where other paths of its parent add up to more."""


@dataclass(frozen=True, slots=True)
class Best:
    """The answered label's index int64[B, A] (in a hierarchy those of the best path) and its probability float64[B, A]."""

    label: Indices
    confidence: Floats


@dataclass(frozen=True, slots=True)
class Ranking:
    """Of one input pattern, for B items, A attributes and K ranks: `labels` int64[B, A, K], each within its attribute, with
    `confidences` float64[B, A, K], below 0 where the attribute has no further candidate. `outside` float64[B, conditional
    attributes], as in `Scores`."""

    labels: Indices
    confidences: Floats
    outside: Floats


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


def _by_item(values: Floats, place: int) -> Floats:
    """float64[B, attributes, width] of one pattern, copied."""
    return np.ascontiguousarray(values[..., place].transpose(2, 1, 0))


def _at(values: Floats, labels: Indices) -> Indices:
    """int64[B, attributes]: where in all `values` float64[B, attributes, width] those of the labels are."""
    return np.arange(0, values.size, values.shape[-1]).reshape(labels.shape) + labels


def _best(table: ScoreTable, scores: Scores, pattern: Pattern) -> Best:
    place = scores.patterns[pattern]
    label = np.empty((len(scores.path), len(table.places)), np.int64)
    confidence = np.empty(label.shape)
    for group, given in zip(table.groups, scores.groups, strict=True):
        values = _by_item(given, place)
        labels = values.argmax(axis=-1) if isinstance(group, FlatGroup) else group.label_of_path[scores.path[:, place]]
        label[:, group.rows] = labels
        confidence[:, group.rows] = values.reshape(-1).take(_at(values, labels))
    return Best(label, np.minimum(confidence, 1.0, out=confidence))


def _rank(table: ScoreTable, scores: Scores, pattern: Pattern, count: int) -> Ranking:
    place = scores.patterns[pattern]
    shape = (len(scores.path), len(table.places), min(count, max(group.width for group in table.groups)))
    labels, confidences = np.zeros(shape, np.int64), np.full(shape, -1.0)
    for group, given in zip(table.flat, scores.groups, strict=False):
        values = _by_item(given, place)
        values -= group.beyond
        columns, found = _greatest(values, count)
        labels[:, group.rows, : columns.shape[-1]] = columns
        confidences[:, group.rows, : columns.shape[-1]] = found
    hierarchy = table.hierarchy
    if hierarchy is not None:
        values = _by_item(scores.groups[-1], place)
        answered = hierarchy.label_of_path[scores.path[:, place]]
        places = _at(values, answered)
        confidence = values.reshape(-1).take(places)
        above = np.zeros_like(answered)
        above[:, 1:] = answered[:, :-1]
        values -= hierarchy.strangers[np.arange(len(hierarchy.rows)), above]
        values.reshape(-1)[places] = _CHOSEN
        columns, found = _greatest(values, count)
        found[..., 0] = confidence
        labels[:, hierarchy.rows, : columns.shape[-1]] = columns
        confidences[:, hierarchy.rows, : columns.shape[-1]] = found
    return Ranking(labels, np.minimum(confidences, 1.0, out=confidences), scores.outside[..., place].T)


def _greatest(values: Floats, count: int) -> tuple[Indices, Floats]:
    """The labels of the `count` greatest of the last axis (all where there are fewer), greatest first, and those values."""
    columns = np.argsort(-values, axis=-1)[..., :count]
    starts = np.arange(0, values.size, values.shape[-1]).reshape(*values.shape[:2], 1)
    return columns, values.reshape(-1).take(columns + starts)
