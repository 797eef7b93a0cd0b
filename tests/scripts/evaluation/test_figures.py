"""The figures that are reported, against cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.answers import Answerer
from scripts.evaluation.figures import (
    abstaining_share,
    answers,
    attribute_quality,
    changed_quality,
    decision_quality,
    truth_indices,
)

LABELS = {
    "format_version": 1,
    "attributes": ["colour"],
    "heads": [{"kind": "flat", "attribute": "colour", "offset": 0, "size": 2, "labels": ["blue", "red"]}],
}
PATTERN = {"temperature": {}, "thresholds": {"colour": [[0.98, 0.9]]}}
CALIBRATION: dict[str, Any] = {
    "format_version": 1,
    "patterns": {"both": PATTERN, "image": PATTERN, "text": PATTERN},
    "in_domain": {"image": {"min_logit": 0.0}},
    "agreement": {"features": ["colour"], "weights": [8.0], "bias": -4.0, "conflict_below": {"colour": 0.1}},
}
ANSWERER = Answerer(LABELS, CALIBRATION)


def outputs_of(
    red: list[float], *, red_in_title: list[float] | None = None, in_domain: list[float] | None = None
) -> dict[str, NDArray[Any]]:
    """Outputs whose probability of red is as given."""

    def logits(shares: list[float]) -> NDArray[np.float32]:
        return np.stack([np.zeros(len(shares)), np.log(np.array(shares) / (1 - np.array(shares)))], axis=1).astype(np.float32)

    rows = len(red)
    return {
        "fused_logits": logits(red),
        "image_logits": logits(red),
        "text_logits": logits(red_in_title or red),
        "fused_embedding": np.ones((rows, 1), np.float32),
        "image_embedding": np.ones((rows, 1), np.float32),
        "text_embedding": np.ones((rows, 1), np.float32),
        "image_in_domain": np.array(in_domain or [1.0] * rows, np.float32),
        "text_in_domain": np.ones(rows, np.float32),
    }


def test_accuracy_counts_the_rows_that_have_a_label() -> None:
    truth = truth_indices(ANSWERER, {"colour": ["red", "red", "blue", "", "green"]})
    assert truth["colour"].tolist() == [1, 1, 0, -1, -2]
    outputs = outputs_of([0.9, 0.4, 0.2, 0.9, 0.9])
    found = attribute_quality(ANSWERER, outputs, truth, "both", np.ones(5, bool))
    assert found["colour"]["n"] == 4
    assert found["colour"]["accuracy"] == 0.5, "a label the model does not know can only be answered wrongly"
    assert found["colour"]["macro_f1"] is None, "no class has ten items"
    usable = np.array([True, False, True, True, False])
    assert attribute_quality(ANSWERER, outputs, truth, "both", usable)["colour"]["accuracy"] == 1.0
    nothing = truth_indices(ANSWERER, {"colour": [""] * 5})
    assert attribute_quality(ANSWERER, outputs, nothing, "both", np.ones(5, bool)) == {}


def test_the_calibration_error_is_that_of_the_answers() -> None:
    truth = truth_indices(ANSWERER, {"colour": ["red"] * 70 + ["blue"] * 30})
    found = attribute_quality(ANSWERER, outputs_of([0.7] * 100), truth, "both", np.ones(100, bool))
    assert found["colour"]["accuracy"] == pytest.approx(0.7)
    assert found["colour"]["macro_f1"] == pytest.approx((2 * 70 / 170 + 0) / 2)


def test_what_is_accepted_is_counted_and_checked() -> None:
    outputs = outputs_of([0.95, 0.95, 0.6, 0.95, 0.02])
    truth = truth_indices(ANSWERER, {"colour": ["red", "blue", "red", "green", ""]})
    given = answers(ANSWERER, outputs, image=True, text=True)
    found, abstaining = decision_quality(ANSWERER, given, truth)
    assert found["colour"]["accepted_share"] == pytest.approx(3 / 4)
    assert found["colour"]["accepted_precision"] == pytest.approx(1 / 3)
    assert abstaining == 0.0


def test_nothing_accepted_has_no_precision() -> None:
    truth = truth_indices(ANSWERER, {"colour": ["red", ""]})
    found, _ = decision_quality(ANSWERER, answers(ANSWERER, outputs_of([0.6, 0.6]), image=True, text=True), truth)
    assert found["colour"] == {"accepted_share": 0.0, "accepted_precision": None}


def test_the_abstaining_share_is_that_of_items() -> None:
    outputs = outputs_of([0.9] * 4, in_domain=[-1, 1, 1, 1])
    assert abstaining_share(answers(ANSWERER, outputs, image=True, text=False)) == 0.25
    assert abstaining_share([]) == 0.0


def test_a_change_is_against_the_plain_figures() -> None:
    changed = changed_quality({"colour": {"accuracy": 0.6}, "fit": {"accuracy": 0.5}}, {"colour": {"accuracy": 0.9}})
    assert changed["colour"]["change"] == pytest.approx(-0.3)
    assert list(changed) == ["colour"]
