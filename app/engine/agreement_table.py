"""The parameters by which a photo and a title are judged to show one product, made ready for arithmetic.

Owns what `calibration.json` says of agreement. Refuses to know logits and items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.label_layout import Floats

OVERLAP_FLOOR = 1e-4
"""Added to an overlap or a sureness before its logarithm is taken. Only the overlap of a photo and a title that both rule out
what the other says gets down to it."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """When a title is taken for another product's: where `score` is above 0. `weights` float64[2K] are those of the overlaps of
    the attributes `names`, whose places are `rows` int64[K], and then of their surenesses."""

    cosine_weight: float
    image_in_domain_weight: float
    text_in_domain_weight: float
    names: Sequence[str]
    rows: NDArray[np.int64]
    weights: Floats
    bias: float

    @classmethod
    def of(cls, calibration: Mapping[str, Any] | None, attributes: Sequence[str]) -> Contradiction | None:
        """From `calibration.json`'s `agreement.contradiction`; None for a bundle without it."""
        if calibration is None:
            return None
        overlap, sureness = calibration["overlap"], calibration.get("sureness", {})
        names = [name for name in attributes if name in overlap or name in sureness]
        return cls(
            cosine_weight=float(calibration["cosine"]),
            image_in_domain_weight=float(calibration["image_in_domain"]),
            text_in_domain_weight=float(calibration["text_in_domain"]),
            names=names,
            rows=np.array([attributes.index(name) for name in names], np.int64),
            weights=np.array([float(weights.get(name, 0.0)) for weights in (overlap, sureness) for name in names]),
            bias=float(calibration["bias"]),
        )

    def score(self, cosine: Floats, overlap: Floats, sureness: Floats, outputs: Mapping[str, NDArray[Any]]) -> Floats:
        """float64[...] of cosines [...], the overlaps and surenesses of `names` [K, ...] each, and the outputs of as many
        items."""
        total = self.cosine_weight * cosine + self.image_in_domain_weight * outputs["image_in_domain"]
        total = total + self.text_in_domain_weight * outputs["text_in_domain"] + self.bias
        if self.names:
            weights = self.weights.reshape(-1, *[1] * np.ndim(cosine))
            weighed = log_overlap(np.concatenate([overlap, sureness])) * weights
            # One after the other: the rounding of a matrix product or a sum would depend on how many items there are.
            total = total + np.add.accumulate(weighed)[-1]
        return np.asarray(total, np.float64)


@dataclass(frozen=True, slots=True)
class AgreementTable:
    """A number per attribute (`weights` of its overlap, `conflict_below`: the overlap under which it conflicts, 0 for never),
    and those of the whole."""

    weights: Floats
    cosine_weight: float
    bias: float
    conflict_below: Floats
    contradiction: Contradiction | None

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
            contradiction=Contradiction.of(calibration.get("contradiction"), attributes),
        )


def log_overlap(overlap: Floats) -> Floats:
    """What a contradiction is judged by, of an overlap or a sureness."""
    return np.asarray(np.log(overlap + OVERLAP_FLOOR))


def sigmoid(value: Any) -> Any:
    """Of a number or an array of them."""
    return 1.0 / (1.0 + np.exp(-np.clip(value, -50, 50)))
