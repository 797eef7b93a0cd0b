"""The statistics against values known from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.statistics import (
    area_under_roc,
    binomial_lower_bound,
    expected_calibration_error,
    logistic_regression,
    macro_f1,
    shows_proportion,
)


def test_the_binomial_bound_needs_149_faultless_answers_for_98_percent() -> None:
    """0.05 ** (1 / n) is the exact bound after n hits of n."""
    assert binomial_lower_bound(149, 149, 0.95) >= 0.98
    assert binomial_lower_bound(148, 148, 0.95) < 0.98
    for trials in (1, 10, 59, 1000):
        assert binomial_lower_bound(trials, trials, 0.95) == pytest.approx(0.05 ** (1 / trials), abs=1e-9)


@pytest.mark.parametrize(
    ("hits", "trials", "confidence", "bound"),
    [
        # From the quantiles of the beta distribution, Beta(hits, trials - hits + 1).
        (8, 10, 0.95, 0.4930987),
        (9, 10, 0.975, 0.5549839),
        (90, 100, 0.975, 0.8237774),
        (1, 10, 0.95, 0.0051162),
    ],
)
def test_the_binomial_bound_is_clopper_and_pearsons(hits: int, trials: int, confidence: float, bound: float) -> None:
    assert binomial_lower_bound(hits, trials, confidence) == pytest.approx(bound, abs=2e-6)


def test_the_binomial_bound_solves_its_own_equation() -> None:
    bound = binomial_lower_bound(37, 50, 0.9)
    tail = sum(math.comb(50, k) * bound**k * (1 - bound) ** (50 - k) for k in range(37, 51))
    assert tail == pytest.approx(0.1, abs=1e-9)


def test_a_proportion_is_shown_exactly_when_the_bound_reaches_it() -> None:
    for hits, trials in ((0, 20), (18, 20), (20, 20), (149, 149), (148, 148), (960, 1000), (2, 3000)):
        bound = binomial_lower_bound(hits, trials, 0.95)
        for proportion in (bound - 1e-6, bound + 1e-6, 0.5, 0.98):
            if 0 < proportion < 1:
                assert shows_proportion(hits, trials, proportion, 0.95) == (bound >= proportion)


def test_no_hits_prove_nothing() -> None:
    assert binomial_lower_bound(0, 20, 0.95) == 0.0
    assert not shows_proportion(0, 20, 0.5, 0.95)


def test_the_calibration_error_of_calibrated_answers_is_near_zero() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.beta(5, 1.5, 20_000)
    right = rng.random(20_000) < confidence
    assert expected_calibration_error(confidence, right) < 0.006
    assert expected_calibration_error(np.clip(confidence + 0.1, 0, 1), right) == pytest.approx(0.1, abs=0.03)
    assert expected_calibration_error(np.full(1000, 0.9), np.zeros(1000, bool)) == pytest.approx(0.9)


def test_the_calibration_error_of_nothing_is_unknown() -> None:
    assert math.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_the_area_under_roc_counts_pairs() -> None:
    assert area_under_roc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert area_under_roc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 0.0
    assert area_under_roc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    # 7 of 9 pairs in order
    assert area_under_roc(np.array([0.9, 0.8, 0.4]), np.array([0.7, 0.5, 0.1])) == pytest.approx(7 / 9)
    assert math.isnan(area_under_roc(np.zeros(0), np.ones(3)))


def test_macro_f1_averages_the_classes_that_are_common_enough() -> None:
    truth = np.array([0] * 10 + [1] * 10 + [2] * 3)
    assert macro_f1(truth, truth) == 1.0
    guess = np.array([0] * 10 + [0] * 5 + [1] * 5 + [2] * 3)
    assert macro_f1(truth, guess) == pytest.approx((20 / 25 + 10 / 15) / 2)
    assert math.isnan(macro_f1(truth[:5], guess[:5]))


def test_logistic_regression_recovers_a_separating_direction() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4000, 3))
    log_odds = x @ np.array([2.0, -1.0, 0.0]) + 0.5
    y = (rng.random(4000) < 1 / (1 + np.exp(-log_odds))).astype(float)
    weights, bias = logistic_regression(x, y, ridge=1e-3)
    assert weights == pytest.approx([2.0, -1.0, 0.0], abs=0.2)
    assert bias == pytest.approx(0.5, abs=0.15)


def test_logistic_regression_stays_finite_on_separable_and_one_sided_data() -> None:
    x = np.concatenate([np.full((50, 1), -1.0), np.full((50, 1), 1.0)])
    y = np.repeat([0.0, 1.0], 50)
    weights, bias = logistic_regression(x, y, ridge=1.0)
    assert 0.5 < weights[0] < 20
    assert abs(bias) < 0.1
    weights, bias = logistic_regression(x, np.ones(100), ridge=1.0)
    assert np.isfinite([*weights, bias]).all()
    assert bias > 2
