"""Contradictions are counted where there are any; the service's own answers have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from app.engine.answers import Answerer
from app.engine.items import AttributeAnswer, Candidate, Classification
from scripts.evaluation.figures import answers
from scripts.evaluation.hierarchy import contradictions
from tests.tiny_bundle import CALIBRATION, LABELS, LOGITS_WIDTH

ANSWERER = Answerer(LABELS, CALIBRATION)


def answered(master: str, article: str, candidate: str) -> Classification:
    def answer(label: str, other: str) -> AttributeAnswer:
        return AttributeAnswer(label, 0.9, "review", (Candidate(label, 0.9), Candidate(other, 0.1)))

    return Classification(
        ("image",), {"masterCategory": answer(master, master), "articleType": answer(article, candidate)}, None
    )


def test_labels_and_candidates_that_contradict_the_parent_are_counted() -> None:
    good = answered("Apparel", "Tshirts", "Shirts")
    wrong_label = answered("Accessories", "Tshirts", "Watches")
    wrong_candidate = answered("Apparel", "Tshirts", "Watches")
    assert contradictions(ANSWERER, [good]) == (0, 0)
    assert contradictions(ANSWERER, [good, wrong_label]) == (1, 1)
    assert contradictions(ANSWERER, [wrong_candidate, replace(good)]) == (0, 1)


def test_answers_from_random_logits_never_contradict() -> None:
    rng = np.random.default_rng(5)
    outputs = {
        f"{name}_logits": rng.normal(0, 2, (200, LOGITS_WIDTH)).astype(np.float32) for name in ("fused", "image", "text")
    }
    outputs |= {f"{name}_in_domain": np.ones(200, np.float32) for name in ("image", "text")}
    given = answers(ANSWERER, outputs, image=True, text=False, top_k=5)
    assert contradictions(ANSWERER, given) == (0, 0)
