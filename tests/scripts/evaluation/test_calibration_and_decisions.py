"""Calibration cells and decision cells, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.evaluation.calibration import chance_limit, reliability
from scripts.evaluation.decisions import misses
from scripts.statistics import expected_calibration_error


def test_chance_covers_an_honest_model_and_not_a_boaster() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.5, 1.0, 400)
    limit = chance_limit(confidence, seed=1)
    honest = [expected_calibration_error(confidence, rng.random(400) < confidence) for _ in range(100)]
    assert 0.88 <= np.mean(np.array(honest) <= limit) <= 1.0
    assert expected_calibration_error(confidence, rng.random(400) < confidence - 0.2) > limit


def test_reliability_points_go_from_unsure_to_sure() -> None:
    confidence = np.array([0.9] * 20 + [0.5] * 20)
    right = np.array([True] * 18 + [False] * 2 + [True] * 10 + [False] * 10)
    points = reliability(confidence, right, bins=2)
    assert points == [
        {"n": 20, "confidence": pytest.approx(0.5), "accuracy": 0.5},
        {"n": 20, "confidence": pytest.approx(0.9), "accuracy": 0.9},
    ]


@pytest.mark.parametrize(
    ("precision", "accepted", "asked", "missed"),
    [
        # Two standard errors of 0.90 over 100 answers are 0.06.
        (0.85, 100, 0.90, False),
        (0.83, 100, 0.90, True),
        # Over 10,000 answers they are 0.006.
        (0.893, 10_000, 0.90, True),
        (0.90, 10_000, 0.90, False),
        (1.0, 5, 0.99, False),
        (0.0, 0, 0.99, False),
    ],
)
def test_a_cell_misses_by_more_than_two_standard_errors(precision: float, accepted: int, asked: float, missed: bool) -> None:
    assert misses(precision, accepted, asked) is missed
