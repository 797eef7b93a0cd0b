"""Whether swapped titles are noticed, against cases worked out by hand."""

from __future__ import annotations

import numpy as np

from app.engine.answers import Answerer
from scripts.evaluation.agreement import partners, swapped_quality
from tests.scripts.evaluation.test_figures import ANSWERER, CALIBRATION, LABELS, outputs_of


def test_a_title_that_says_the_other_colour_is_noticed() -> None:
    kinds = np.array([0, 1] * 30)
    outputs = outputs_of([0.99 if kind else 0.01 for kind in kinds])
    found = swapped_quality(ANSWERER, outputs, np.roll(np.arange(60), 1), np.arange(60) >= 10)
    assert found is not None
    assert found["n"] == 50
    assert found["auroc"] == 1.0
    assert (found["conflicts_matching"], found["conflicts_swapped"]) == (0.0, 1.0)


def test_a_title_that_says_the_same_is_not() -> None:
    found = swapped_quality(ANSWERER, outputs_of([0.99] * 60), np.roll(np.arange(60), 1), np.ones(60, bool))
    assert found is not None
    assert found["auroc"] == 0.5
    assert found["conflicts_swapped"] == 0.0


def test_it_is_not_measured_on_a_few_pairs_or_without_calibration() -> None:
    other = np.roll(np.arange(60), 1)
    assert swapped_quality(ANSWERER, outputs_of([0.9] * 60), other, np.arange(60) < 19) is None
    mute = Answerer(LABELS, CALIBRATION | {"agreement": None})
    assert swapped_quality(mute, outputs_of([0.9] * 60), other, np.ones(60, bool)) is None


def test_partners_are_of_the_same_kind_and_another_colour() -> None:
    kinds = np.array([0, 0, 0, 1, 1, -1, 0])
    colours = np.array([5, 6, 5, 7, 7, 5, -1])
    found = partners(kinds, colours, np.random.default_rng(1))
    assert found[0] == found[2] == 1
    assert found[1] in (0, 2)
    assert found[3:].tolist() == [-1, -1, -1, -1], "one colour only, no kind, or no colour"
