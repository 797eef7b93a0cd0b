"""A small model's labels, calibration and outputs, for tests of what is made of them."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.engine.answers import Answerer
from app.engine.bundle_schema import Calibration, Labels
from app.engine.items import Classification

PATHS = [
    ["Accessories", "Bags", "Backpacks"],
    ["Accessories", "Bags", "Handbags"],
    ["Accessories", "Watches", "Watches"],
    ["Apparel", "Bottomwear", "Jeans"],
    ["Apparel", "Topwear", "Shirts"],
    ["Apparel", "Topwear", "Tshirts"],
]
LEAVES = [path[-1] for path in PATHS]
LEVELS = ["masterCategory", "subCategory", "articleType"]
LABELS: dict[str, Any] = {
    "format_version": 1,
    "attributes": ["articleType", "subCategory", "masterCategory", "gender", "sleeveLength"],
    "heads": [
        {"kind": "hierarchy", "offset": 0, "size": 6, "levels": LEVELS, "paths": PATHS},
        {"kind": "flat", "attribute": "gender", "offset": 6, "size": 2, "labels": ["Men", "Women"]},
        {"kind": "flat", "attribute": "sleeveLength", "offset": 8, "size": 2, "labels": ["Long", "Short"]},
    ],
    "applies": {"sleeveLength": [False, False, False, False, True, True]},
}
THRESHOLDS = {
    "articleType": [[0.9, 0.5], [0.98, 0.8]],
    "subCategory": [[0.9, 0.5], [0.98, 0.8]],
    "masterCategory": [[0.9, 0.5], [0.98, 0.8]],
    "gender": [[0.8, 0.6], [0.95, 0.9]],
}
CALIBRATION: dict[str, Any] = {
    "format_version": 1,
    "patterns": {p: {"temperature": {}, "thresholds": THRESHOLDS} for p in ("both", "image", "text")},
    "in_domain": {"image": {"min_logit": 0.0}, "text": {"min_logit": 0.0}},
    "agreement": {
        "features": ["cosine", "articleType"],
        "weights": [4.0, 6.0],
        "bias": -3.0,
        "conflict_below": {"articleType": 0.05, "gender": 0.05},
    },
}
EMBEDDING_WIDTH = 4


def logits_for(leaf: str, *, share: float = 0.99, gender: str = "Men", sleeve: str = "Short") -> NDArray[np.float32]:
    """Logits whose softmax gives `leaf` the probability `share`, the rest being spread evenly."""
    logits = np.zeros(10, np.float32)
    logits[LEAVES.index(leaf)] = np.log(share / (1 - share) * 5)
    logits[6 + ["Men", "Women"].index(gender)] = 6
    logits[8 + ["Long", "Short"].index(sleeve)] = 6
    return logits


def outputs_of(
    fused: NDArray[np.float32],
    *,
    image: NDArray[np.float32] | None = None,
    text: NDArray[np.float32] | None = None,
    image_in_domain: float = 5.0,
    text_in_domain: float = 5.0,
    cosine: float = 1.0,
) -> dict[str, NDArray[Any]]:
    one, other = np.zeros(EMBEDDING_WIDTH, np.float32), np.zeros(EMBEDDING_WIDTH, np.float32)
    one[0], other[0], other[1] = 1.0, cosine, np.sqrt(1 - cosine**2)
    return {
        "fused_logits": fused,
        "image_logits": fused if image is None else image,
        "text_logits": fused if text is None else text,
        "fused_embedding": one,
        "image_embedding": one,
        "text_embedding": other,
        "image_in_domain": np.array(image_in_domain, np.float32),
        "text_in_domain": np.array(text_in_domain, np.float32),
    }


def batch_of(logits: NDArray[np.float32], *, image_in_domain: float = 5.0) -> dict[str, NDArray[np.float32]]:
    """Outputs of B items from float32[B, 3, L]: by photo and title, by the photo, by the title."""
    items = [outputs_of(row[0], image=row[1], text=row[2], cosine=0.5, image_in_domain=image_in_domain) for row in logits]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def calibrated(**changes: Any) -> Answerer:
    calibration = deepcopy(CALIBRATION) | changes
    Labels.model_validate_json(json.dumps(LABELS))
    Calibration.model_validate_json(json.dumps(calibration))
    return Answerer(LABELS, calibration)


def classify(
    outputs: dict[str, NDArray[Any]],
    *,
    answerer: Answerer | None = None,
    image: bool = True,
    text: bool = True,
    attributes: tuple[str, ...] = tuple(LABELS["attributes"]),
    top_k: int = 5,
    precision: float = 0.98,
) -> Classification:
    return (answerer or calibrated()).classify(
        outputs, image_present=image, text_present=text, attributes=attributes, top_k=top_k, precision=precision
    )


any_logits = st.lists(st.floats(-12, 12, width=32), min_size=10, max_size=10).map(lambda v: np.array(v, np.float32))
any_batch = st.integers(1, 5).flatmap(
    lambda count: st.lists(st.floats(-12, 12, width=32), min_size=count * 30, max_size=count * 30).map(
        lambda values: np.array(values, np.float32).reshape(count, 3, 10)
    )
)
"""float32[B, 3, 10], of up to five items."""
