"""Brands that training never saw: what does their novelty cost?

Owns the comparison of the held-out brands' rows with the evaluated split's. The manifest says which brands were held out
(`held_out.brands`); their rows count wherever they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.engine.items import Pattern
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import NO_LABEL, Quality, attribute_quality, changed_quality

MIN_CLASS_ROWS = 5
"""Rows that a kind of product needs in the split before its accuracy is compared with the held-out brands'."""


def held_out_brand_rows(evaluation: Evaluation) -> NDArray[np.bool_]:
    """bool[rows of the catalogue]: whether the row's brand was held out of training. Raises NotApplicable."""
    brands = evaluation.model.bundle.manifest.held_out.get("brands")
    if not brands:
        raise NotApplicable("the bundle's manifest names no held-out brands (held_out.brands)")
    labels = evaluation.catalogue.labels
    column = next((name for name in labels if "brand" in name.lower()), None)
    if column is None:
        raise NotApplicable("the catalogue has no column of brands")
    chosen = np.isin(np.array([str(value) for value in labels[column]]), [str(brand) for brand in brands])
    if not chosen.any():
        raise NotApplicable("no row of the catalogue is of a held-out brand")
    return chosen


def measure_unseen_brands(evaluation: Evaluation) -> Quality:
    """`n` rows, `brands`, and per pattern and attribute the figures with `change` against the split's rows of other brands
    and `change_at_equal_mix`, the same against those rows weighted to the held-out brands' mix of products (None where
    too few kinds are shared)."""
    chosen = held_out_brand_rows(evaluation)
    unseen = Evaluation(evaluation.model, evaluation.catalogue, np.flatnonzero(chosen), name="unseen brands")
    seen = ~chosen[evaluation.rows]
    result: Quality = {"n": int(chosen.sum()), "brands": len(evaluation.model.bundle.manifest.held_out["brands"])}
    for pattern in unseen.patterns:
        usable = evaluation.usable(pattern) & seen
        if not usable.any():
            continue
        plain = attribute_quality(evaluation.answerer, evaluation.outputs, evaluation.truth, pattern, usable)
        found = attribute_quality(unseen.answerer, unseen.outputs, unseen.truth, pattern, unseen.usable(pattern))
        figures = changed_quality(found, plain)
        for name, entry in figures.items():
            entry["change_at_equal_mix"] = _change_at_equal_mix(evaluation, unseen, pattern, name, seen)
        result[pattern] = figures
    return result


def _change_at_equal_mix(
    evaluation: Evaluation, unseen: Evaluation, pattern: Pattern, attribute: str, seen: NDArray[np.bool_]
) -> float | None:
    """Accuracy on the unseen brands less what the split's accuracy per kind of product would give on their mix."""
    kind = evaluation.kind_attribute
    right, known = evaluation.right(pattern, attribute)
    right_unseen, known_unseen = unseen.right(pattern, attribute)
    known = known & seen
    differences, weights = [], []
    for label in np.unique(unseen.truth[kind][known_unseen]):
        here = known & (evaluation.truth[kind] == label)
        there = known_unseen & (unseen.truth[kind] == label)
        if label != NO_LABEL and here.sum() >= MIN_CLASS_ROWS:
            differences.append(float(right_unseen[there].mean() - right[here].mean()))
            weights.append(int(there.sum()))
    return float(np.average(differences, weights=weights)) if weights else None
