"""Ranking and its figures, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.evaluation.retrieval import precision_at, ranked, recall_and_rank


def test_the_nearest_come_first_and_ties_keep_their_order() -> None:
    gallery = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
    assert ranked(np.array([[1.0, 0.0], [0.0, 1.0]]), gallery, top=3).tolist() == [[1, 3, 2], [0, 2, 1]]


def test_recall_and_reciprocal_rank() -> None:
    relevant = np.zeros((4, 10), bool)
    relevant[0, 0] = True
    relevant[1, [3, 5]] = True  # the first hit counts
    relevant[2, 9] = True
    found = recall_and_rank(relevant)
    assert found["recall_at_1"] == 0.25
    assert found["recall_at_10"] == 0.75
    assert found["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 10 + 0) / 4)


def test_precision_counts_every_hit() -> None:
    relevant = np.zeros((2, 10), bool)
    relevant[0, :5] = True
    relevant[1, 9] = True
    assert precision_at(relevant) == pytest.approx({"precision_at_1": 0.5, "precision_at_10": 0.3, "mean": 0.4})
