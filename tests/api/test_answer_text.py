"""What is written for a whole batch is what one item's answer says."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.api.answer_text import merge_objects, write_attributes, write_classification
from app.api.answers import render_attributes, render_classification
from app.engine.answer_table import AnswerTable, AttributeAnswers
from app.engine.answers import Answerer
from app.engine.decisions import ACCEPT
from app.engine.items import Classification
from app.engine.scores import INPUTS_OF_PATTERN
from tests.engine.drawn_outputs import CALIBRATION, LABELS, any_batch, batch_of, calibrated, classify, logits_for, outputs_of

ANSWERER = calibrated()
NAMES = tuple(LABELS["attributes"])


def answers_to(
    logits: NDArray[np.float32],
    *,
    names: Sequence[str] = NAMES,
    top_k: int = 5,
    precision: float = 0.9,
    photo: bool = True,
    title: bool = True,
    image_in_domain: float = 5.0,
) -> list[Classification]:
    """Of logits float32[B, 3, L]: by photo and title, by the photo, by the title."""
    outputs = batch_of(logits, image_in_domain=image_in_domain)
    scores = ANSWERER.score(outputs, [INPUTS_OF_PATTERN[0 if photo and title else 1 if photo else 2]] * len(logits))
    return [
        ANSWERER.answer(outputs, scores, position, attributes=names, top_k=top_k, precision=precision)
        for position in range(len(logits))
    ]


@given(
    any_batch,
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple),
    st.integers(1, 9),
    st.sampled_from([(True, True), (True, False), (False, True)]),
    st.sampled_from([5.0, -5.0]),
)
def test_an_answer_is_written_as_it_is_rendered(
    logits: NDArray[np.float32], names: tuple[str, ...], top_k: int, given_inputs: tuple[bool, bool], image_in_domain: float
) -> None:
    photo, title = given_inputs
    for answer in answers_to(logits, names=names, top_k=top_k, photo=photo, title=title, image_in_domain=image_in_domain):
        written, rendered = json.loads(write_classification(answer)), json.loads(json.dumps(render_classification(answer)))
        assert list(written) == list(rendered)
        assert list(written["attributes"]) == list(rendered["attributes"]) == list(names)
        assert written["inputs"] == rendered["inputs"]
        assert written.get("agreement") == rendered.get("agreement")
        for name, expected in rendered["attributes"].items():
            found = written["attributes"][name]
            assert list(found) == list(expected)
            assert (found["label"], found["decision"]) == (expected["label"], expected["decision"])
            assert found["confidence"] == pytest.approx(expected["confidence"], abs=1.01e-6)
            assert [c["label"] for c in found["candidates"]] == [c["label"] for c in expected["candidates"]]
            for candidate, other in zip(found["candidates"], expected["candidates"], strict=True):
                assert list(candidate) == ["label", "confidence"]
                assert candidate["confidence"] == pytest.approx(other["confidence"], abs=1.01e-6)


def test_every_decision_occurs_in_what_was_compared() -> None:
    sure, torn = logits_for("Watches", share=0.999), logits_for("Watches", share=0.3)
    answers = answers_to(np.stack([[sure] * 3, [torn] * 3])) + answers_to(np.stack([[sure] * 3]), image_in_domain=-5.0)
    decisions = {found["decision"] for answer in answers for found in json.loads(write_attributes(answer.attributes)).values()}
    assert decisions == {"accept", "review", "abstain", "not_applicable"}


@pytest.mark.parametrize(
    ("confidence", "text"),
    [
        (0.0, b"0.000000"),
        (4e-7, b"0.000000"),
        (6e-7, b"0.000001"),
        (0.1, b"0.100000"),
        (0.9234567, b"0.923457"),
        (0.99999949, b"0.999999"),
        (0.9999996, b"1.000000"),
        (1.0, b"1.000000"),
    ],
)
def test_confidences_have_six_digits(confidence: float, text: bytes) -> None:
    answer = b'"label":"Men","confidence":' + text
    written = write_attributes(one_answer(confidence))
    assert written == b'{"gender":{%b,"decision":"accept","candidates":[{%b}]}}' % (answer, answer)


def one_answer(confidence: float) -> AttributeAnswers:
    row = NAMES.index("gender")
    labels, confidences = np.zeros((1, len(NAMES), 1), np.int64), np.full((1, len(NAMES), 1), confidence)
    decisions = np.full((1, len(NAMES)), ACCEPT, np.uint8)
    return AttributeAnswers(AnswerTable(ANSWERER.layout, labels, confidences, decisions, confidences[..., 0]), 0, (NAMES[row],))


def test_an_item_that_is_no_number_is_no_other_items_matter() -> None:
    healthy = np.stack([np.stack([logits_for(leaf)] * 3) for leaf in ("Watches", "Jeans")])
    alone = [write_attributes(answer.attributes) for answer in answers_to(healthy)]
    with np.errstate(invalid="ignore"):
        beside = answers_to(np.concatenate([healthy, np.full((1, 3, 10), np.nan, np.float32)]))
    assert [write_attributes(answer.attributes) for answer in beside[:2]] == alone


def test_labels_may_hold_whatever_a_catalogue_does() -> None:
    labels = deepcopy(LABELS)
    odd = ['Men "tall" \\', "女 %s {0} %b"]
    labels["heads"][1]["labels"] = odd
    labels["attributes"] = [name if name != "gender" else 'gen"der %d' for name in labels["attributes"]]
    labels["heads"][1]["attribute"] = 'gen"der %d'
    answerer = Answerer(labels, deepcopy(CALIBRATION) | {"agreement": None})
    answer = classify(outputs_of(logits_for("Jeans")), answerer=answerer, text=False, attributes=('gen"der %d',))
    written = json.loads(write_attributes(answer.attributes))
    assert list(written) == ['gen"der %d']
    assert {candidate["label"] for candidate in written['gen"der %d']["candidates"]} == set(odd)


def test_plain_answers_are_written_too() -> None:
    (answer,) = answers_to(np.stack([[logits_for("Shirts")] * 3]))
    plain = dict(answer.attributes)
    assert json.loads(write_attributes(plain)) == json.loads(json.dumps(render_attributes(answer.attributes)))


def test_what_was_made_ready_for_a_model_goes_with_it() -> None:
    answerer = calibrated()
    answer = classify(outputs_of(logits_for("Jeans")), answerer=answerer)
    write_attributes(answer.attributes)
    layout = weakref.ref(answerer.layout)
    del answerer, answer
    gc.collect()
    assert layout() is None


def test_objects_are_merged_in_their_order() -> None:
    assert merge_objects(b'{"a":1}', b'{"b":{"c":[]},"d":"}"}') == b'{"a":1,"b":{"c":[]},"d":"}"}'
