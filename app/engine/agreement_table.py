"""The parameters by which a photo and a title are judged to show one product, made ready for arithmetic.

Owns what `calibration.json` says of agreement. Refuses to know logits and items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.engine.label_layout import Floats


@dataclass(frozen=True, slots=True)
class AgreementTable:
    """A number per attribute (`weights` of its overlap, `conflict_below`: the overlap under which it conflicts, 0 for never),
    and those of the whole: a title contradicts with a score under `contradicts_below` and a photo that is at least
    `photo_sure_from` sure of the item's family."""

    weights: Floats
    cosine_weight: float
    bias: float
    conflict_below: Floats
    contradicts_below: float
    photo_sure_from: float

    @classmethod
    def of(cls, calibration: Mapping[str, Any] | None, attributes: Sequence[str]) -> AgreementTable | None:
        """From `calibration.json`'s `agreement`; None for a bundle without it."""
        if calibration is None:
            return None
        weight = dict(zip(calibration["features"], calibration["weights"], strict=True))
        return cls(
            weights=np.array([float(weight.get(name, 0.0)) for name in attributes]),
            cosine_weight=float(weight.get("cosine", 0.0)),
            bias=float(calibration["bias"]),
            conflict_below=np.array([float(calibration["conflict_below"].get(name, 0.0)) for name in attributes]),
            contradicts_below=float(calibration.get("contradicts_below", 0.0)),
            photo_sure_from=float(calibration.get("photo_sure_from", 0.0)),
        )


def sigmoid(value: Any) -> Any:
    """Of a number or an array of them."""
    return 1.0 / (1.0 + np.exp(-np.clip(value, -50, 50)))
