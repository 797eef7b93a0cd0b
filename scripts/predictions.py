"""What a network in memory says of rows, and how often it is right.

Owns running rows through it unchanged. Refuses to know how it is trained and what is served (`scripts.served_model`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from app.engine.text import TitleTokenizer
from scripts.batches import Rows
from scripts.labels import LabelSpace
from scripts.losses import Recogniser


def predict(
    model: keras.Model,
    rows: Rows,
    chosen: NDArray[np.int64],
    *,
    tokenizer: TitleTokenizer | None,
    photos: NDArray[np.uint8] | None = None,
    titles: Sequence[str] | None = None,
    batch_size: int = 256,
) -> dict[str, NDArray[np.float32]]:
    """All outputs of the network for the chosen rows, unaugmented; `photos` and `titles` replace the rows' own. In parts of
    about one size, as JAX compiles for each size anew."""
    texts = [rows.titles[row] for row in chosen] if titles is None else list(titles)
    tokens = tokenizer.encode_many(texts) if tokenizer else np.zeros((len(texts), 1), np.int32)
    x = {
        "image": rows.photos[chosen] if photos is None else photos,
        "token_ids": tokens,
        "image_present": rows.photo_present[chosen],
        "text_present": (tokens != 0).any(axis=1),
    }
    parts = max(1, math.ceil(len(texts) / batch_size))
    outputs = model.predict(x, batch_size=math.ceil(len(texts) / parts) or 1, verbose=0)
    return {name: np.asarray(value, np.float32) for name, value in outputs.items()}


def validation_accuracy(
    model: Recogniser,
    rows: Rows,
    val_rows: NDArray[np.int64],
    *,
    tokenizer: TitleTokenizer | None,
    space: LabelSpace,
) -> dict[str, float]:
    """Accuracy per head and pattern on the validation rows, from the raw logits: `val_articleType_image` and so on."""
    outputs = predict(model, rows, val_rows, tokenizer=tokenizer)
    found = {
        pattern: accuracies(outputs[f"{pattern}_logits"], rows.labels[val_rows], space)
        for pattern in ("fused", "image", "text")
        if not (pattern == "image" and not model.has_image) and not (pattern == "text" and not model.has_text)
    }
    names = dict.fromkeys(name for each in found.values() for name in each)
    return {f"val_{name}_{pattern}": found[pattern][name] for name in names for pattern in found}


def accuracies(scores: NDArray[Any], labels: NDArray[np.int32], space: LabelSpace) -> dict[str, float]:
    """How often the highest of scores float[N, at least the published width] is the label (int32[N, C]), by the name of every
    published head's finest level; a level that no row has a label of is left out."""
    result = {}
    for head in space.heads:
        name, finest = head.levels[-1], len(head.levels) - 1
        truth = labels[:, space.columns.index(name)]
        known = truth >= 0
        if known.any() and not head.auxiliary:
            guess = head.level_index(finest)[scores[:, head.offset : head.offset + head.size].argmax(axis=1)]
            result[name] = float((guess == truth)[known].mean())
    return result
