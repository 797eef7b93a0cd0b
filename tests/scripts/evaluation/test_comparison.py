"""The paired bootstrap says real only of what is."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.evaluation.comparison import paired_bootstrap


def rights(count: int, share: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.arange(count) < round(count * share)


def test_a_clear_gain_is_real_and_its_interval_that_of_the_paired_difference() -> None:
    found = paired_bootstrap(rights(1000, 0.80), rights(1000, 0.85))
    assert (found["n"], found["first"], found["second"]) == (1000, 0.8, 0.85)
    assert found["change"] == pytest.approx(0.05)
    assert found["real"]
    # 50 rows of 1,000 gain and none loses: a binomial share of 5 %.
    deviation = np.sqrt(0.05 * 0.95 / 1000)
    assert found["low"] == pytest.approx(0.05 - 1.96 * deviation, abs=0.002)
    assert found["high"] == pytest.approx(0.05 + 1.96 * deviation, abs=0.002)


def test_a_loss_is_real_too() -> None:
    found = paired_bootstrap(rights(1000, 0.85), rights(1000, 0.80))
    assert found["real"]
    assert found["high"] < 0


def test_what_chance_explains_is_not_real() -> None:
    first, second = rights(200, 0.9), rights(200, 0.9)
    second[:5] = False  # five rows lost, three won
    second[-3:] = True
    assert paired_bootstrap(first, second)["change"] == pytest.approx(-0.01)
    assert not paired_bootstrap(first, second)["real"]


def test_pairing_sees_what_the_accuracies_alone_would_not() -> None:
    first = rights(3000, 0.920)
    second = first | (np.arange(3000) >= 2988)  # twelve rows better, none worse: 0.4 points
    assert paired_bootstrap(first, second)["real"]


def test_equal_answers_have_no_interval() -> None:
    found = paired_bootstrap(rights(50, 0.5), rights(50, 0.5))
    assert (found["change"], found["low"], found["high"], found["real"]) == (0, 0, 0, False)
