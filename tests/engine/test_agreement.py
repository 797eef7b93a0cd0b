"""What photo and title say of each other: how well they agree, and when a title is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.agreement_table import OVERLAP_FLOOR
from app.engine.answers import Answerer, agreement_features
from tests.engine.drawn_outputs import CALIBRATION, any_logits, calibrated, classify, logits_for, outputs_of


def test_a_matching_title_agrees_without_conflicts() -> None:
    agreement = classify(outputs_of(logits_for("Jeans"))).agreement
    assert agreement is not None
    assert agreement.score > 0.95
    assert agreement.conflicts == ()


def test_a_title_of_another_product_disagrees_and_says_where() -> None:
    outputs = outputs_of(logits_for("Jeans"), image=logits_for("Jeans"), text=logits_for("Watches", gender="Men"), cosine=0.0)
    agreement = classify(outputs).agreement
    assert agreement is not None
    assert agreement.score < 0.1
    (conflict,) = agreement.conflicts
    assert (conflict.attribute, conflict.image.label, conflict.text.label) == ("articleType", "Jeans", "Watches")
    assert conflict.image.confidence == pytest.approx(0.99, abs=1e-6)
    assert conflict.text.confidence == pytest.approx(0.99, abs=1e-6)


def test_an_unsure_difference_is_no_conflict() -> None:
    outputs = outputs_of(logits_for("Jeans"), text=logits_for("Shirts", share=0.3))
    agreement = classify(outputs).agreement
    assert agreement is not None
    assert agreement.conflicts == ()


@pytest.mark.parametrize(("image", "text"), [(True, False), (False, True)])
def test_there_is_no_agreement_with_one_input(image: bool, text: bool) -> None:
    assert classify(outputs_of(logits_for("Jeans")), image=image, text=text).agreement is None


def test_a_model_that_was_not_calibrated_for_agreement_gives_none() -> None:
    assert classify(outputs_of(logits_for("Jeans")), answerer=calibrated(agreement=None)).agreement is None


def contradicting(bias: float = -5.0, *, sureness: dict[str, float] | None = None, **changes: Any) -> Answerer:
    rule = {"cosine": -4.0, "image_in_domain": 0.2, "text_in_domain": 0.2, "overlap": {"articleType": -1.0}, "bias": bias}
    rule |= {"sureness": sureness} if sureness else {}
    return calibrated(agreement=CALIBRATION["agreement"] | {"contradiction": rule}, **changes)


def test_a_title_of_another_product_is_left_out_and_said_to_disagree() -> None:
    outputs = outputs_of(logits_for("Watches"), image=logits_for("Jeans"), text=logits_for("Watches"), cosine=0.0)
    found = classify(outputs, answerer=contradicting())
    assert found.inputs == ("image",)
    assert found.attributes == classify(outputs, text=False).attributes
    assert found.agreement is not None
    assert [conflict.attribute for conflict in found.agreement.conflicts] == ["articleType"]
    assert classify(outputs).inputs == ("image", "text"), "a bundle without a rule"
    matching = outputs_of(logits_for("Jeans"))
    assert classify(matching, answerer=contradicting()).inputs == ("image", "text")


@pytest.mark.parametrize(("photo", "title"), [(0.6, 0.99), (0.99, 0.6)])
def test_neither_a_photo_nor_a_title_that_is_in_doubt_contradicts_the_other(photo: float, title: float) -> None:
    image, text = logits_for("Jeans", share=photo), logits_for("Watches", share=title)
    found = classify(outputs_of(text, image=image, text=text, cosine=0.0), answerer=contradicting())
    assert found.inputs == ("image", "text")
    assert found.attributes["articleType"].label == "Watches"
    assert found.agreement is not None
    assert found.agreement.score < 0.5, "it is said all the same"


def test_the_less_familiar_an_input_the_less_it_contradicts() -> None:
    image, text = logits_for("Jeans"), logits_for("Watches")
    outputs = outputs_of(text, image=image, text=text, cosine=0.0, image_in_domain=0.5, text_in_domain=0.5)
    assert classify(outputs, answerer=contradicting(-6.2)).inputs == ("image", "text")
    outputs["text_in_domain"] = np.asarray(9.0, np.float32)
    assert classify(outputs, answerer=contradicting(-6.2)).inputs == ("image",)


@pytest.mark.parametrize("unsure", ["image_logits", "text_logits"])
def test_a_photo_and_a_title_that_are_both_sure_of_another_attribute_contradict_each_other_more(unsure: str) -> None:
    image, text = logits_for("Jeans", gender="Women"), logits_for("Watches", gender="Men")
    outputs = outputs_of(text, image=image, text=text, cosine=0.0)
    rule = contradicting(-7.1, sureness={"gender": 1.0})
    assert classify(outputs, answerer=rule).inputs == ("image",)
    outputs[unsure] = outputs[unsure].copy()
    outputs[unsure][6:8] = 0.0
    assert classify(outputs, answerer=rule).inputs == ("image", "text")


def test_one_batch_holds_items_with_both_inputs_and_with_one() -> None:
    outputs = outputs_of(logits_for("Watches"), image=logits_for("Jeans"), text=logits_for("Watches"), cosine=0.0)
    matching = outputs_of(logits_for("Jeans"))
    batch = {name: np.stack([outputs[name], outputs[name], matching[name], outputs[name]]) for name in outputs}
    answerer = contradicting()
    scores = answerer.score(batch, [("image", "text"), ("text",), ("image", "text"), ("image",)])
    found = [
        answerer.answer(batch, scores, position, attributes=("articleType",), top_k=1, precision=0.9) for position in range(4)
    ]
    assert [answer.inputs for answer in found] == [("image",), ("text",), ("image", "text"), ("image",)]
    assert [answer.attributes["articleType"].label for answer in found] == ["Jeans", "Watches", "Jeans", "Jeans"]


def test_the_rule_of_earlier_bundles_is_taken_and_not_followed() -> None:
    outputs = outputs_of(logits_for("Watches"), image=logits_for("Jeans"), text=logits_for("Watches"), cosine=0.0)
    earlier = calibrated(agreement=CALIBRATION["agreement"] | {"contradicts_below": 0.9, "photo_sure_from": 0.1})
    assert classify(outputs, answerer=earlier).inputs == ("image", "text")


def test_an_unfamiliar_photo_does_not_overrule_a_title() -> None:
    outputs = outputs_of(
        logits_for("Watches"), image=logits_for("Jeans"), text=logits_for("Watches"), cosine=0.0, image_in_domain=-1.0
    )
    found = classify(outputs, answerer=contradicting())
    assert found.inputs == ("image", "text")
    assert {answer.decision for answer in found.attributes.values()} == {"abstain"}


@pytest.mark.parametrize(("logit", "inputs"), [(1.0, ("image",)), (-0.5, ("image", "text"))])
def test_a_photo_unlike_most_overrules_a_title_until_it_is_likelier_none_than_one(
    logit: float, inputs: tuple[str, ...]
) -> None:
    outputs = outputs_of(
        logits_for("Watches"), image=logits_for("Jeans"), text=logits_for("Watches"), cosine=0.0, image_in_domain=logit
    )
    limits = {"image": {"min_logit": 2.0}, "text": {"min_logit": 0.0}}
    found = classify(outputs, answerer=contradicting(in_domain=limits))
    assert found.inputs == inputs
    assert {answer.decision for answer in found.attributes.values()} == {"abstain"}


@given(any_logits, any_logits, st.floats(-1, 1), st.floats(-3, 3), st.floats(-3, 3), st.floats(-8, 4))
def test_arrays_leave_out_the_titles_that_single_answers_do(
    image: NDArray[np.float32], text: NDArray[np.float32], cosine: float, photo: float, title: float, bias: float
) -> None:
    outputs = outputs_of(
        logits_for("Jeans"), image=image, text=text, cosine=cosine, image_in_domain=photo, text_in_domain=title
    )
    answerer = contradicting(bias, sureness={"articleType": 0.5, "gender": -0.7})
    found = classify(outputs, answerer=answerer)
    assert found.agreement is not None
    assert float(answerer.agreement_scores(outputs)) == pytest.approx(found.agreement.score, abs=1e-9)
    overlap = agreement_features(answerer, outputs, ["articleType"])
    score = -4.0 * overlap["cosine"] + 0.2 * (photo + title) - np.log(overlap["articleType"] + OVERLAP_FLOOR) + bias
    for name, weight in (("articleType", 0.5), ("gender", -0.7)):
        by_image = answerer.layout.probabilities(outputs["image_logits"], name, answerer.temperature("image", name))
        by_text = answerer.layout.probabilities(outputs["text_logits"], name, answerer.temperature("text", name))
        score = score + weight * np.log((by_image**2).sum() * (by_text**2).sum() + OVERLAP_FLOOR)
    if abs(float(score)) > 1e-5:
        batch = {name: np.stack([value, value]) for name, value in outputs.items()}
        assert answerer.leaves_title_out(batch).tolist() == [found.inputs == ("image",)] * 2
        assert bool(answerer.leaves_title_out(outputs)) == (found.inputs == ("image",))
        if photo >= 0 and title >= 0:
            assert (found.inputs == ("image",)) == (score > 0)
