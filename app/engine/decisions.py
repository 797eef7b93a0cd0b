"""When an answer may be acted on.

Owns the thresholds of `calibration.json`, and the rule that a child is never accepted above a parent in review. Refuses to know
labels, and where a confidence comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from app.engine.items import Decision, Pattern
from app.engine.label_layout import Floats
from app.engine.levels import Indices
from app.engine.scores import PATTERNS

DECISIONS: tuple[Decision, ...] = get_args(Decision)
"""A decision's code is its place here."""
ACCEPT, REVIEW, ABSTAIN, NOT_APPLICABLE = (DECISIONS.index(name) for name in ("accept", "review", "abstain", "not_applicable"))
Codes = NDArray[np.uint8]


class DecisionTable:
    """Thresholds of one bundle, for A attributes. `levels`: the rows of the hierarchy's, from coarse to fine."""

    def __init__(self, calibration: Mapping[str, Any], attributes: Sequence[str], levels: Sequence[int]) -> None:
        self._attributes = attributes
        self._levels = levels
        self._thresholds: dict[str, dict[str, list[tuple[float, float]]]] = {
            pattern: {
                name: sorted((float(p), float(c)) for p, c in pairs) for name, pairs in found.get("thresholds", {}).items()
            }
            for pattern, found in calibration["patterns"].items()
        }
        self._floors = lru_cache(maxsize=256)(self._find_floors)

    def min_confidence(self, pattern: Pattern, attribute: str, precision: float) -> float | None:
        """Least confidence to accept at the next stored precision that is at least as strict; None: never accept."""
        for stored, confidence in self._thresholds.get(pattern, {}).get(attribute, ()):
            if stored >= precision - 1e-9:
                return confidence
        return None

    def decide(self, confidence: Floats, patterns: Indices, precision: float) -> Codes:
        """uint8[B, A], `ACCEPT` or `REVIEW`, of the answers' confidences float64[B, A]. `patterns` int64[B]: the place in
        `PATTERNS` of what each item is answered from."""
        accepted = confidence >= self._floors(precision)[patterns]
        for above, row in pairwise(self._levels):
            accepted[:, row] &= accepted[:, above]
        return np.where(accepted, np.uint8(ACCEPT), np.uint8(REVIEW))

    def _find_floors(self, precision: float) -> Floats:
        """float64[P, A], above every confidence where nothing is accepted."""
        found = [[self.min_confidence(pattern, name, precision) for name in self._attributes] for pattern in PATTERNS]
        return np.array([[np.inf if floor is None else floor for floor in floors] for floors in found])
