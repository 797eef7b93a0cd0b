"""Does `agreement` notice a title that belongs to another product?

Owns the swaps: titles of another kind of product, and the harder ones of the same kind in another colour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.engine.answers import Answerer
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import Quality
from scripts.served_model import Outputs, row
from scripts.statistics import area_under_roc

MIN_PAIRS = 20


def measure_agreement(evaluation: Evaluation, seed: int = 1) -> Quality:
    """`n`, `auroc`, `conflicts_matching`, `conflicts_swapped` for titles of another kind, and the same under
    `other_colour` for titles of the same kind in another colour (None where that cannot be asked)."""
    both = evaluation.need("both")
    outputs = {name: value[both] for name, value in evaluation.outputs.items()}
    kinds = evaluation.truth[evaluation.kind_attribute][both]
    rng = np.random.default_rng(seed)
    other = rng.permutation(len(kinds))
    found = swapped_quality(evaluation.answerer, outputs, other, (kinds[other] != kinds) & (kinds >= 0))
    if found is None:
        raise NotApplicable("the bundle judges no agreement, or there are too few rows of different kinds")
    found["other_colour"] = None
    colour = evaluation.colour_attribute
    if colour is not None and colour != evaluation.kind_attribute:
        partner = partners(kinds, evaluation.truth[colour][both], rng)
        found["other_colour"] = swapped_quality(evaluation.answerer, outputs, partner, partner >= 0)
    return found


def partners(same: NDArray[np.int64], other: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """int64[N]: for every row another one, at random, that is equal in `same` and differs in `other`; -1 where none is.
    Rows without a label (negative) take no part."""
    chosen = np.full(len(same), -1, np.int64)
    for i in np.flatnonzero((same >= 0) & (other >= 0)):
        candidates = np.flatnonzero((same == same[i]) & (other >= 0) & (other != other[i]))
        if len(candidates):
            chosen[i] = rng.choice(candidates)
    return chosen


def swapped_quality(
    answerer: Answerer, outputs: Outputs, other: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> Quality | None:
    """How well agreement tells the chosen rows' own titles from those of the rows `other` int64[N]. None with fewer than
    `MIN_PAIRS` pairs, or for a bundle that judges no agreement."""
    rows = np.flatnonzero(chosen)
    if len(rows) < MIN_PAIRS:
        return None
    own = {name: value[rows] for name, value in outputs.items()}
    swapped = {name: value[other[rows]] if name.startswith("text_") else value[rows] for name, value in outputs.items()}
    scores, flagged = [], []
    for pairs in (own, swapped):
        agreements = [found for i in range(len(rows)) if (found := answerer.agreement(row(pairs, i))) is not None]
        scores.append(np.array([found.score for found in agreements]))
        flagged.append(float(np.mean([bool(found.conflicts) for found in agreements] or [False])))
    if not len(scores[0]):
        return None
    return {
        "n": len(rows),
        "auroc": area_under_roc(scores[0], scores[1]),
        "conflicts_matching": flagged[0],
        "conflicts_swapped": flagged[1],
    }
