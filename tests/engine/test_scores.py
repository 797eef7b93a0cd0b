"""What is worked out for a whole batch at once is what one item and one attribute at a time would give."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.answers import Answerer
from app.engine.items import Pattern
from app.engine.ranking import best, ranking
from app.engine.scores import INPUTS_OF_PATTERN, PATTERNS
from tests.engine.drawn_outputs import CALIBRATION, LABELS, LEVELS, any_batch, batch_of, calibrated, logits_for

TEMPERATURES = {"masterCategory": 0.7, "subCategory": 1.3, "articleType": 2.0, "gender": 0.5}
ANSWERER = calibrated(
    patterns={
        "both": {"temperature": TEMPERATURES, "thresholds": {}},
        "image": {"temperature": {"gender": 3.0}, "thresholds": {}},
    }
)


def with_attributes(*names: str) -> Answerer:
    labels = LABELS | {"attributes": list(names)}
    labels["applies"] = {name: flags for name, flags in LABELS["applies"].items() if name in names}
    return Answerer(labels, CALIBRATION)


def all_from(pattern: Pattern, logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Of every item of a batch, that it is answered from `pattern`."""
    return np.full(len(logits), PATTERNS.index(pattern))


ANSWERERS = [
    ANSWERER,
    with_attributes("articleType", "masterCategory", "gender"),
    with_attributes("gender", "masterCategory", "subCategory", "sleeveLength"),
    with_attributes("subCategory"),
    with_attributes("sleeveLength", "articleType"),
    with_attributes("sleeveLength", "gender"),
]
"""Of all attributes, and where levels are left out."""


@given(any_batch, st.sampled_from(ANSWERERS))
def test_a_batch_gives_what_one_attribute_at_a_time_gives(logits: NDArray[np.float32], answerer: Answerer) -> None:
    layout = answerer.layout
    scores = answerer.score(batch_of(logits))
    for place, pattern in enumerate(PATTERNS):
        for row, name in enumerate(layout.attributes):
            expected = layout.probabilities(logits[:, place], name, answerer.temperature(pattern, name))
            first = answerer.table.first[row]
            found = scores.values[place][:, first : first + expected.shape[-1]]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)
            if name in LEVELS:  # elsewhere logits nearer than a rounding error may tie as probabilities
                answered = ranking(answerer.table, scores, all_from(pattern, logits), 1).labels[:, row, 0]
                np.testing.assert_array_equal(answered, layout.best_labels(logits[:, place], name))
    sides = [
        [layout.probabilities(logits[:, place], name, answerer.temperature(PATTERNS[place], name)) for place in (1, 2)]
        for name in layout.attributes
    ]
    overlap = np.stack([(image * text).sum(axis=-1) for image, text in sides], axis=-1)
    np.testing.assert_allclose(answerer.table.overlap(scores), overlap, rtol=1e-12, atol=1e-300)


@given(any_batch, st.sampled_from(ANSWERERS), st.sampled_from(PATTERNS))
def test_the_answered_labels_are_those_that_rank_first(
    logits: NDArray[np.float32], answerer: Answerer, pattern: Pattern
) -> None:
    scores = answerer.score(batch_of(logits))
    first = ranking(answerer.table, scores, all_from(pattern, logits), 2)
    items, rows = (part.ravel() for part in np.indices(first.labels.shape[:2]))
    labels, confidences = best(answerer.table, scores, pattern, items, rows)
    np.testing.assert_array_equal(confidences, first.confidences[..., 0].ravel())
    differs = labels != first.labels[..., 0].ravel()
    assert (first.confidences[..., 1].ravel()[differs] == confidences[differs]).all()  # of equals either


@given(any_batch, st.integers(0, 2), st.sampled_from([5.0, -5.0]))
def test_an_answer_does_not_depend_on_its_batch(logits: NDArray[np.float32], rotation: int, strange: float) -> None:
    outputs = batch_of(logits)
    outputs["image_in_domain"] = np.where(np.arange(len(logits)) % 2, 5.0, strange).astype(np.float32)
    scores = ANSWERER.score(outputs, [INPUTS_OF_PATTERN[(item + rotation) % 3] for item in range(len(logits))])
    for position in range(len(logits)):
        asked = {"attributes": LABELS["attributes"], "top_k": 3, "precision": 0.9}
        together = ANSWERER.answer(outputs, scores, position, **asked)
        inputs = scores.inputs[position]
        alone = ANSWERER.classify(
            {name: value[position] for name, value in outputs.items()},
            image_present="image" in inputs, text_present="text" in inputs, **asked,
        )  # fmt: skip
        assert together == alone


def test_an_item_that_is_no_number_changes_no_other_items_answer() -> None:
    healthy = np.stack([np.stack([logits_for(leaf)] * 3) for leaf in ("Watches", "Jeans", "Handbags")])
    outputs = batch_of(np.concatenate([healthy, np.full((1, 3, 10), np.nan, np.float32)]))
    asked = {"attributes": LABELS["attributes"], "top_k": 4, "precision": 0.9}
    with np.errstate(invalid="ignore"):
        scores = ANSWERER.score(outputs)
        together = [ANSWERER.answer(outputs, scores, position, **asked) for position in range(3)]
    for position, answer in enumerate(together):
        alone = {name: value[position] for name, value in outputs.items()}
        assert answer == ANSWERER.classify(alone, image_present=True, text_present=True, **asked)
        assert all(c.confidence >= 0 for found in answer.attributes.values() for c in found.candidates)


def test_only_the_outputs_that_there_are_are_scored() -> None:
    logits = logits_for("Jeans")[None]
    scores = ANSWERER.score({"image_logits": logits, "image_in_domain": np.zeros(1, np.float32)})
    assert dict(scores.patterns) == {"image": 0}
    assert scores.cosine is None


@given(any_batch, st.integers(1, 9), st.sampled_from(PATTERNS), st.sampled_from(ANSWERERS))
def test_a_ranking_names_the_likeliest_labels_that_do_not_contradict_the_answered_parent(
    logits: NDArray[np.float32], count: int, pattern: Pattern, answerer: Answerer
) -> None:
    layout, table = answerer.layout, answerer.table
    found = ranking(table, answerer.score(batch_of(logits)), all_from(pattern, logits), count)
    for position, rows in enumerate(logits[:, PATTERNS.index(pattern)]):
        for row, name in enumerate(layout.attributes):
            is_candidate = found.confidences[position, row] >= 0.0
            assert (np.diff(is_candidate.astype(int)) <= 0).all()  # the missing ones come last
            columns = found.labels[position, row][is_candidate].tolist()
            values = found.confidences[position, row][is_candidate].tolist()
            expected = layout.probabilities(rows, name, answerer.temperature(pattern, name))
            np.testing.assert_allclose(values, expected[columns], rtol=1e-12, atol=1e-300)
            candidates = set(range(len(expected)))
            if name in LEVELS:
                assert columns[0] == layout.best_labels(rows, name)
            above = LEVELS[LEVELS.index(name) - 1] if name in LEVELS[1:] else None
            if above in layout.attributes:
                parent = layout.layouts[above].labels[int(layout.best_labels(rows, above))]
                labels = layout.layouts[name].labels
                candidates = {label for label in candidates if layout.parent_label[name][labels[label]] == parent}
            assert set(columns) <= candidates
            assert len(set(columns)) == len(columns) == min(count, len(candidates))
            assert values[1:] == sorted(values[1:], reverse=True)
            left_out = [expected[label] for label in candidates - set(columns)]
            assert not left_out or max(left_out) <= min(values[1:] or [1.0]) + 1e-12
