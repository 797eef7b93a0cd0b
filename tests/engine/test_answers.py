"""What a merchandiser acts on never contradicts itself and never promises more than was shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.answers import Answerer
from app.engine.items import AttributeAnswer
from tests.engine.drawn_outputs import (
    CALIBRATION,
    LABELS,
    LEVELS,
    PATHS,
    THRESHOLDS,
    any_logits,
    calibrated,
    classify,
    logits_for,
    outputs_of,
)

# ---- hierarchy


@given(any_logits, st.integers(1, 8))
def test_the_labels_are_one_path_and_no_candidate_contradicts_the_parent(logits: NDArray[np.float32], top_k: int) -> None:
    answers = classify(outputs_of(logits), top_k=top_k).attributes
    labels = [answers[level].label for level in LEVELS]
    assert labels in PATHS
    for parent, child in ((0, 1), (1, 2)):
        allowed = {path[child] for path in PATHS if path[parent] == labels[parent]}
        assert {candidate.label for candidate in answers[LEVELS[child]].candidates} <= allowed


@given(any_logits, st.floats(0.3, 4.0))
def test_at_one_temperature_a_parent_is_at_least_as_sure_as_its_child(logits: NDArray[np.float32], temperature: float) -> None:
    pattern = {"temperature": dict.fromkeys(LEVELS, temperature), "thresholds": {}}
    answers = classify(outputs_of(logits), answerer=calibrated(patterns={"both": pattern})).attributes
    master, sub, article = (answers[level].confidence for level in LEVELS)
    assert 1.0 >= master >= sub - 1e-12 >= article - 2e-12 >= 0.0


@given(any_logits, st.floats(0.5, 0.999), st.lists(st.floats(0.3, 4.0), min_size=3, max_size=3))
def test_a_child_is_never_accepted_above_a_parent_in_review(
    logits: NDArray[np.float32], precision: float, temperatures: list[float]
) -> None:
    pattern = {"temperature": dict(zip(LEVELS, temperatures, strict=True)), "thresholds": THRESHOLDS}
    answerer = calibrated(patterns={"both": pattern})
    answers = classify(outputs_of(logits), answerer=answerer, precision=precision).attributes
    accepted = [answers[level].decision == "accept" for level in LEVELS]
    assert accepted == sorted(accepted, reverse=True)
    # Asking for the child alone gives the same child.
    alone = classify(outputs_of(logits), answerer=answerer, precision=precision, attributes=("articleType",))
    assert dict(alone.attributes) == {"articleType": answers["articleType"]}


def test_a_sure_child_waits_for_its_unsure_parent() -> None:
    strict_parent = THRESHOLDS | {"masterCategory": [[0.98, 0.999]]}
    answerer = calibrated(patterns={"both": {"temperature": {}, "thresholds": strict_parent}})
    answers = classify(outputs_of(logits_for("Jeans", share=0.99)), answerer=answerer).attributes
    assert answers["articleType"].confidence > 0.8
    assert [answers[level].decision for level in LEVELS] == ["review"] * 3


def test_a_parents_confidence_is_the_sum_over_its_children() -> None:
    logits = np.full(10, -20, np.float32)
    logits[[0, 1, 2]] = np.log([0.5, 0.3, 0.2])
    answers = classify(outputs_of(logits)).attributes
    assert [answers[level].label for level in LEVELS] == ["Accessories", "Bags", "Backpacks"]
    assert [answers[level].confidence for level in LEVELS] == pytest.approx([1.0, 0.8, 0.5], abs=1e-6)


# ---- confidences and candidates


def test_the_temperature_of_the_pattern_and_attribute_is_used() -> None:
    patterns = {
        "both": {"temperature": {"gender": 2.0}, "thresholds": {}},
        "image": {"temperature": {"gender": 0.5}, "thresholds": {}},
    }
    outputs, answerer = outputs_of(logits_for("Jeans")), calibrated(patterns=patterns)
    both, image, text = (
        classify(outputs, answerer=answerer, image=i, text=t).attributes["gender"].confidence
        for i, t in ((True, True), (True, False), (False, True))
    )
    assert both == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-6)
    assert image == pytest.approx(1 / (1 + np.exp(-12)), abs=1e-6)
    assert text == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-6), "no temperature means 1"


@given(any_logits, st.integers(1, 10))
def test_candidates_start_with_the_answer_and_are_as_many_as_asked(logits: NDArray[np.float32], top_k: int) -> None:
    for name, answer in classify(outputs_of(logits), top_k=top_k).attributes.items():
        if answer.decision == "not_applicable":
            continue
        assert (answer.candidates[0].label, answer.candidates[0].confidence) == (answer.label, answer.confidence)
        assert len(answer.candidates) <= top_k
        assert len({candidate.label for candidate in answer.candidates}) == len(answer.candidates)
        rest = [candidate.confidence for candidate in answer.candidates[1:]]
        assert rest == sorted(rest, reverse=True)
        assert sum(rest) + answer.confidence <= 1.0 + 1e-9
        if name in ("gender", "sleeveLength", "masterCategory"):
            assert len(answer.candidates) == min(top_k, 2)


def test_only_the_asked_attributes_are_answered_in_the_asked_order() -> None:
    answers = classify(outputs_of(logits_for("Shirts")), attributes=("gender", "subCategory")).attributes
    assert list(answers) == ["gender", "subCategory"]


def test_logits_of_any_size_give_finite_confidences() -> None:
    for scale in (1e-30, 1e4, 3e38):
        logits = np.linspace(-scale, scale, 10, dtype=np.float32)
        for answer in classify(outputs_of(logits)).attributes.values():
            assert 0.0 <= answer.confidence <= 1.0


# ---- decisions


@pytest.mark.parametrize(
    ("precision", "confidence", "decision"),
    [
        (0.8, 0.65, "accept"),
        (0.5, 0.65, "accept"),  # the next stricter stored precision is 0.8
        (0.81, 0.65, "review"),  # 0.95 is next, which needs 0.9
        (0.81, 0.95, "accept"),
        (0.95, 0.95, "accept"),
        (0.96, 0.999, "review"),  # nothing was shown beyond 0.95
    ],
)
def test_the_next_stricter_threshold_decides(precision: float, confidence: float, decision: str) -> None:
    logits = np.zeros(10, np.float32)
    logits[6] = np.log(confidence / (1 - confidence))
    answer = classify(outputs_of(logits), precision=precision, attributes=("gender",)).attributes["gender"]
    assert answer.confidence == pytest.approx(confidence, abs=1e-6)
    assert answer.decision == decision


def test_without_thresholds_everything_is_for_review() -> None:
    cases: list[dict[str, Any]] = [{}, {"both": {"temperature": {}, "thresholds": {}}}]
    for patterns in cases:
        answers = classify(
            outputs_of(logits_for("Tshirts", share=0.9999)), answerer=calibrated(patterns=patterns), precision=0.5
        )
        assert {answer.decision for answer in answers.attributes.values()} == {"review"}


def test_an_attribute_that_does_not_belong_is_not_applicable() -> None:
    watch = classify(outputs_of(logits_for("Watches", share=0.97))).attributes["sleeveLength"]
    assert watch == AttributeAnswer(None, watch.confidence, "not_applicable", ())
    assert watch.confidence == pytest.approx(0.97 + 0.03 * 3 / 5, abs=1e-5), "the share of the paths without sleeves"
    shirt = classify(outputs_of(logits_for("Shirts", share=0.97))).attributes["sleeveLength"]
    assert (shirt.label, shirt.decision) == ("Short", "review")


# ---- the unfamiliar


def test_an_unfamiliar_photo_abstains_in_every_attribute() -> None:
    for text in (True, False):
        found = classify(outputs_of(logits_for("Watches"), image_in_domain=-0.1), text=text)
        assert {answer.decision for answer in found.attributes.values()} == {"abstain"}
        assert all(answer.label is not None and answer.candidates for answer in found.attributes.values())


def test_an_unfamiliar_title_alone_abstains() -> None:
    found = classify(outputs_of(logits_for("Watches"), text_in_domain=-0.1), image=False)
    assert {answer.decision for answer in found.attributes.values()} == {"abstain"}
    assert found.inputs == ("text",)


def test_an_unreadable_title_leaves_the_answer_to_the_photo() -> None:
    outputs = outputs_of(logits_for("Watches"), image=logits_for("Jeans"), text_in_domain=-0.1)
    found = classify(outputs)
    assert found.inputs == ("image",)
    assert found.attributes == classify(outputs, text=False).attributes
    assert found.attributes["articleType"].label == "Jeans"
    assert found.attributes["articleType"].decision == "accept"


def test_inputs_name_what_was_read() -> None:
    outputs = outputs_of(logits_for("Jeans"))
    assert classify(outputs).inputs == ("image", "text")
    assert classify(outputs, text=False).inputs == ("image",)
    assert classify(outputs, image=False).inputs == ("text",)


def test_with_too_little_data_nothing_is_unfamiliar() -> None:
    outputs = outputs_of(logits_for("Jeans"), image_in_domain=-1e9, text_in_domain=-1e9)
    for limits in ({}, {"image": {"min_logit": None}, "text": {"min_logit": None}}):
        found = classify(outputs, answerer=calibrated(in_domain=limits))
        assert found.attributes["articleType"].decision == "accept"


def test_an_odd_title_is_read_beside_a_photo_and_abstains_alone() -> None:
    answerer = calibrated(in_domain={"image": {"min_logit": 2.0}, "text": {"min_logit": 2.0}})

    def inputs(logit: float) -> tuple[str, ...]:
        return classify(outputs_of(logits_for("Jeans"), image_in_domain=3.0, text_in_domain=logit), answerer=answerer).inputs

    assert inputs(3.0) == inputs(0.5) == ("image", "text")
    assert inputs(-0.5) == inputs(float("nan")) == ("image",), "likelier no title than one"
    outputs = outputs_of(logits_for("Jeans"), image_in_domain=3.0, text_in_domain=0.5)
    alone = classify(outputs, answerer=answerer, image=False)
    assert {answer.decision for answer in alone.attributes.values()} == {"abstain"}


def test_a_score_that_is_no_number_abstains() -> None:
    found = classify(outputs_of(logits_for("Jeans"), image_in_domain=float("nan")))
    assert {answer.decision for answer in found.attributes.values()} == {"abstain"}


def test_the_finest_level_says_what_an_item_is_wherever_it_stands() -> None:
    labels = LABELS | {"attributes": ["gender", "masterCategory", "subCategory", "articleType", "sleeveLength"]}
    assert Answerer(labels, CALIBRATION).kind_attribute == "articleType"


# ---- without a hierarchy


def test_a_model_with_one_flat_attribute_answers() -> None:
    labels = {
        "format_version": 1,
        "attributes": ["digit"],
        "heads": [{"kind": "flat", "attribute": "digit", "offset": 0, "size": 3, "labels": ["0", "1", "2"]}],
    }
    answerer = Answerer(labels, {"format_version": 1, "patterns": {}, "in_domain": {}, "agreement": None})
    outputs = {"image_logits": np.array([0.0, 5.0, 1.0], np.float32), "image_in_domain": np.float32(0)}
    found = answerer.classify(
        {name: np.asarray(value) for name, value in outputs.items()},
        image_present=True, text_present=False, attributes=["digit"], top_k=2, precision=0.9,
    )  # fmt: skip
    assert [candidate.label for candidate in found.attributes["digit"].candidates] == ["1", "2"]
    assert answerer.kind_attribute == "digit"


def test_a_model_with_one_level_answers() -> None:
    heads = [{"kind": "hierarchy", "offset": 0, "size": 3, "levels": ["kind"], "paths": [["Bag"], ["Shoe"], ["Watch"]]}]
    answerer = Answerer(
        {"format_version": 1, "attributes": ["kind"], "heads": heads, "applies": {}},
        {"format_version": 1, "patterns": {}, "in_domain": {"image": None, "text": None}, "agreement": None},
    )
    outputs = {"image_logits": np.array([0.0, 2.0, 1.0], np.float32), "image_in_domain": np.array(1.0)}
    found = answerer.classify(outputs, image_present=True, text_present=False, attributes=["kind"], top_k=2, precision=0.9)
    assert [candidate.label for candidate in found.attributes["kind"].candidates] == ["Shoe", "Watch"]
