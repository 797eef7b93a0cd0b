"""Do accepted answers keep the precision that was asked for, and how many are accepted?

Owns the table of decisions over precisions, attributes and input patterns. Decisions are the service's own.
"""

from __future__ import annotations

import math

from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import NO_LABEL, Quality, answers, decision_quality

PRECISIONS = (0.90, 0.95, 0.98, 0.99)
STANDARD_ERRORS = 2.0


def misses(precision: float, accepted: int, asked: float) -> bool:
    """Whether a measured precision over so many accepted answers is under the asked one by more than two standard errors
    of a proportion that is just what was asked."""
    return accepted > 0 and precision < asked - STANDARD_ERRORS * math.sqrt(asked * (1 - asked) / accepted)


def measure_decisions(evaluation: Evaluation) -> Quality:
    """Per asked precision, pattern and attribute: `accepted` (answers), `coverage` (their share of the labelled rows),
    `precision` (None where nothing is accepted), `misses`; and over all cells `cells`, `accepting`, `missing`."""
    if not evaluation.patterns:
        raise NotApplicable("no row has a photo or a title")
    result: Quality = {"precisions": {}}
    cells = accepting = missing = 0
    for asked in PRECISIONS:
        patterns: Quality = {}
        for pattern in evaluation.patterns:
            usable = evaluation.usable(pattern)
            given = answers(
                evaluation.answerer,
                {name: value[usable] for name, value in evaluation.outputs.items()},
                image=pattern != "text",
                text=pattern != "image",
                precision=asked,
            )
            truth = {name: target[usable] for name, target in evaluation.truth.items()}
            figures: Quality = {}
            for name, entry in decision_quality(evaluation.answerer, given, truth)[0].items():
                share, precision = entry["accepted_share"], entry["accepted_precision"]
                if share is None:
                    continue
                accepted = round(share * int((truth[name] != NO_LABEL).sum()))
                missed = precision is not None and misses(precision, accepted, asked)
                cells, accepting, missing = cells + 1, accepting + (accepted > 0), missing + missed
                figures[name] = {"accepted": accepted, "coverage": share, "precision": precision, "misses": missed}
            patterns[pattern] = figures
        result["precisions"][f"{asked:.2f}"] = patterns
    return result | {"cells": cells, "accepting": accepting, "missing": missing}
