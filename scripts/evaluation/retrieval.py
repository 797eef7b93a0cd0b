"""Can a product be found by its title, and a shelf by its name?

Owns ranking by cosine and its figures. Text to image: queries are the split's distinct titles, the gallery its photos (the
photo's embedding alone), relevant is a photo whose product has that title. Name to product: the query is a label's own
words, the gallery 0.9 photo + 0.1 title, relevant is a product with that label.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.text import clean_title
from scripts.evaluation.evaluation import Evaluation
from scripts.evaluation.figures import Quality

TOP = 10
IMAGE_SHARE, TITLE_SHARE = 0.9, 0.1


def ranked(queries: NDArray[Any], gallery: NDArray[Any], top: int = TOP) -> NDArray[np.int64]:
    """int64[Q, min(top, G)]: the nearest of the gallery float[G, D] to each query float[Q, D], nearest first, by dot
    product; ties go to the earlier row."""
    scores = queries @ gallery.T
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]


def recall_and_rank(relevant: NDArray[np.bool_]) -> dict[str, float]:
    """`recall_at_1`, `recall_at_10` (share of queries with a hit so far) and `mrr` (reciprocal rank of the first hit, 0
    beyond the tenth) from bool[Q, 10] in ranked order."""
    hit = relevant.any(axis=1)
    first = relevant.argmax(axis=1) + 1
    return {
        "recall_at_1": float(relevant[:, 0].mean()),
        "recall_at_10": float(hit.mean()),
        "mrr": float(np.where(hit, 1 / first, 0).mean()),
    }


def precision_at(relevant: NDArray[np.bool_]) -> dict[str, float]:
    """`precision_at_1`, `precision_at_10` and their `mean`, from bool[Q, 10] in ranked order."""
    first, ten = float(relevant[:, 0].mean()), float(relevant.mean())
    return {"precision_at_1": first, "precision_at_10": ten, "mean": (first + ten) / 2}


def text_to_image(evaluation: Evaluation) -> tuple[list[str], NDArray[np.int64], NDArray[np.bool_]]:
    """(the Q distinct titles, int64[Q, 10] positions of the photos found, bool[Q, 10] whether each is relevant)."""
    both = np.flatnonzero(evaluation.need("both"))
    titles = [clean_title((evaluation.titles or [])[row]) for row in both]
    first_of: dict[str, int] = {}
    for place, title in enumerate(titles):
        first_of.setdefault(title, place)
    group = np.array([first_of[title] for title in titles])
    places = np.array(list(first_of.values()))
    found = ranked(evaluation.outputs["text_embedding"][both[places]], evaluation.outputs["image_embedding"][both])
    return list(first_of), both[found], group[found] == places[:, None]


def measure_retrieval(evaluation: Evaluation) -> Quality:
    """`text_to_image` with `queries`, `gallery` and the recalls; `name_to_product` per hierarchy level and colour."""
    both = np.flatnonzero(evaluation.need("both"))
    queries, _, relevant = text_to_image(evaluation)
    result: Quality = {
        "trained": "in-domain, "
        f"{evaluation.model.spec.image_width}x{evaluation.model.spec.image_height} (a zero-shot model's figures are no like)",
        "text_to_image": {"queries": len(queries), "gallery": len(both), **recall_and_rank(relevant)},
        "name_to_product": {},
    }
    mixed = IMAGE_SHARE * evaluation.outputs["image_embedding"][both] + TITLE_SHARE * evaluation.outputs["text_embedding"][both]
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    attributes = [*evaluation.answerer.hierarchy[::-1]] or [evaluation.kind_attribute]
    if evaluation.colour_attribute is not None and evaluation.colour_attribute not in attributes:
        attributes.append(evaluation.colour_attribute)
    for attribute in attributes:
        truth = evaluation.truth[attribute][both]
        present = np.unique(truth[truth >= 0])
        if not len(present):
            continue
        names = [evaluation.answerer.attribute_labels[attribute][label] for label in present]
        embedded = evaluation.others(f"names of {attribute}", titles=names)["text_embedding"]
        relevant = truth[ranked(embedded, mixed)] == present[:, None]
        result["name_to_product"][attribute] = {"queries": len(names), **precision_at(relevant)}
    return result
