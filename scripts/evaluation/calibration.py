"""Is 90 % sure right 90 % of the time?

Owns the calibration error per attribute and input pattern, what it would be by chance alone, and the points of reliability
diagrams.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.items import Pattern
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import NO_LABEL, Quality, served_answers
from scripts.statistics import expected_calibration_error

MANY_ROWS = 1000
"""From this many rows on the error is judged by itself, below by whether chance explains it."""
GOAL = 0.015
SIMULATIONS = 200


def confidences(evaluation: Evaluation, pattern: Pattern, attribute: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(calibrated confidence of the answer, whether it is right) of the usable rows that have a label."""
    chosen = evaluation.usable(pattern) & (evaluation.truth[attribute] != NO_LABEL)
    guess, confidence = served_answers(evaluation.answerer, evaluation.outputs, pattern, attribute)
    return confidence[chosen], (guess == evaluation.truth[attribute])[chosen]


def chance_limit(confidence: NDArray[Any], seed: int, simulations: int = SIMULATIONS) -> float:
    """The error that a perfectly calibrated model with these confidences stays under in 95 % of the draws."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((simulations, len(confidence))) < np.asarray(confidence)
    return float(np.quantile([expected_calibration_error(confidence, right) for right in drawn], 0.95))


def reliability(confidence: NDArray[Any], right: NDArray[np.bool_], bins: int = 15) -> list[dict[str, float]]:
    """`n`, mean `confidence` and `accuracy` of each bin of equal count, from unsure to sure."""
    order = np.argsort(confidence)
    parts = np.array_split(order, min(bins, max(1, len(order) // 10)))
    return [
        {"n": len(part), "confidence": float(confidence[part].mean()), "accuracy": float(right[part].mean())}
        for part in parts
        if len(part)
    ]


def measure_calibration(evaluation: Evaluation) -> Quality:
    """Per pattern and attribute `n`, `ece`, `chance_limit` (only with fewer than `MANY_ROWS` rows), `holds` and the
    `reliability` points; `cells`, `failing` and the `worst` error among the cells with many rows (None without any)."""
    if not evaluation.patterns:
        raise NotApplicable("no row has a photo or a title")
    result: Quality = {"goal": GOAL, "patterns": {}}
    cells = failing = 0
    errors = []
    for pattern in evaluation.patterns:
        figures: Quality = {}
        for attribute in evaluation.attributes:
            confidence, right = confidences(evaluation, pattern, attribute)
            if not len(confidence):
                continue
            error = expected_calibration_error(confidence, right)
            limit = None if len(confidence) >= MANY_ROWS else chance_limit(confidence, evaluation.seed)
            holds = error <= (GOAL if limit is None else limit)
            cells, failing = cells + 1, failing + (not holds)
            if limit is None:
                errors.append(error)
            figures[attribute] = {
                "n": len(confidence),
                "ece": error,
                "chance_limit": limit,
                "holds": holds,
                "reliability": reliability(confidence, right),
            }
        result["patterns"][pattern] = figures
    return result | {"cells": cells, "failing": failing, "worst": max(errors) if errors else None}
