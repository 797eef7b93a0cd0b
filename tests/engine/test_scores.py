"""What is worked out for a whole batch at once is what one item and one attribute at a time would give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.scores import PATTERNS, ranked
from tests.engine.drawn_outputs import LABELS, LEVELS, calibrated, logits_for, outputs_of

TEMPERATURES = {"masterCategory": 0.7, "subCategory": 1.3, "articleType": 2.0, "gender": 0.5}
ANSWERER = calibrated(
    patterns={
        "both": {"temperature": TEMPERATURES, "thresholds": {}},
        "image": {"temperature": {"gender": 3.0}, "thresholds": {}},
    }
)


def batch_of(logits: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Outputs of B items from float32[B, 3, L]."""
    items = [outputs_of(row[0], image=row[1], text=row[2], cosine=0.5) for row in logits]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


any_batch = st.integers(1, 5).flatmap(
    lambda count: st.lists(st.floats(-12, 12, width=32), min_size=count * 30, max_size=count * 30).map(
        lambda values: np.array(values, np.float32).reshape(count, 3, 10)
    )
)


@given(any_batch)
def test_a_batch_gives_what_one_attribute_at_a_time_gives(logits: NDArray[np.float32]) -> None:
    scores = ANSWERER.score(batch_of(logits))
    for place, pattern in enumerate(PATTERNS):
        for row, name in enumerate(LABELS["attributes"]):
            labels = len(ANSWERER.attribute_labels[name])
            expected = ANSWERER.layout.probabilities(logits[:, place], name, ANSWERER.temperature(pattern, name))
            np.testing.assert_allclose(scores.probabilities[:, place, row, :labels], expected, rtol=1e-12, atol=1e-300)
            assert (scores.probabilities[:, place, row, labels:] < 0).all()
            if name in LEVELS:  # elsewhere logits nearer than a rounding error may tie as probabilities
                np.testing.assert_array_equal(scores.best[:, place, row], ANSWERER.layout.best_labels(logits[:, place], name))


@given(any_batch)
def test_an_answer_does_not_depend_on_its_batch(logits: NDArray[np.float32]) -> None:
    outputs = batch_of(logits)
    scores = ANSWERER.score(outputs)
    for position in range(len(logits)):
        asked = {"image_present": True, "text_present": True, "attributes": LABELS["attributes"], "top_k": 3, "precision": 0.9}
        together = ANSWERER.answer(outputs, scores, position, **asked)
        alone = ANSWERER.classify({name: value[position] for name, value in outputs.items()}, **asked)
        assert together == alone


def test_only_the_outputs_that_there_are_are_scored() -> None:
    logits = logits_for("Jeans")[None]
    scores = ANSWERER.score({"image_logits": logits, "image_in_domain": np.zeros(1, np.float32)})
    assert dict(scores.patterns) == {"image": 0}
    assert scores.cosine is None


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_the_greatest_values_come_first_and_equal_ones_in_order(count: int) -> None:
    values = np.array([[0.1, 0.4, 0.4, -1.0], [0.2, 0.0, 0.5, 0.3]])
    columns, found = ranked(values, count)
    if count > 1:  # which of two equal values is the one is left open
        assert columns == [[1, 2, 0, 3][:count], [2, 3, 0, 1][:count]]
    assert found == [[0.4, 0.4, 0.1, -1.0][:count], [0.5, 0.3, 0.2, 0.0][:count]]
