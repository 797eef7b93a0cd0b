"""Does any answer contradict the hierarchy? There must be none.

Owns the count, over the service's own answers and their candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.engine.answers import Answerer
from app.engine.items import Classification
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import Quality, answers

TOP_K = 5


def contradictions(answerer: Answerer, given: Sequence[Classification]) -> tuple[int, int]:
    """(items whose labels are no path of the hierarchy, items with a candidate of another parent than the answered)."""
    paths = set(answerer.hierarchy_paths)
    labels = candidates = 0
    for answer in given:
        found: list[Any] = [answer.attributes[level] for level in answerer.hierarchy]
        labels += tuple(level.label for level in found) not in paths
        for parent, child_name, child in zip(found, answerer.hierarchy[1:], found[1:], strict=False):
            parent_of = answerer.layout.parent_label[child_name]
            if any(parent_of[candidate.label] != parent.label for candidate in child.candidates):
                candidates += 1
                break
    return labels, candidates


def measure_hierarchy(evaluation: Evaluation) -> Quality:
    """Per pattern `n`, `labels` and `candidates`: items in which they contradict each other; `contradictions` in all."""
    if not evaluation.answerer.hierarchy:
        raise NotApplicable("the bundle has no hierarchy")
    result: Quality = {"patterns": {}, "contradictions": 0}
    for pattern in evaluation.patterns:
        usable = evaluation.usable(pattern)
        outputs = {name: value[usable] for name, value in evaluation.outputs.items()}
        given = answers(evaluation.answerer, outputs, image=pattern != "text", text=pattern != "image", top_k=TOP_K)
        labels, candidates = contradictions(evaluation.answerer, given)
        result["patterns"][pattern] = {"n": len(given), "labels": labels, "candidates": candidates}
        result["contradictions"] += labels + candidates
    return result
