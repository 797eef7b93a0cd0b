"""How good a bundle's answers are, from its outputs and the truth.

Owns the figures that several protocols share: accuracy, macro-F1, calibration error, what is accepted and how right that
is, what abstains. Refuses to know files, sources and how the outputs were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.answers import OUTPUT_OF_PATTERN, Answerer
from app.engine.items import Classification, Pattern
from scripts.labels import LabelColumn
from scripts.served_model import Outputs, row
from scripts.statistics import expected_calibration_error, macro_f1

# A label that the model does not know can only be answered wrongly.
UNSEEN_LABEL = -2
NO_LABEL = -1
REPORTED_PRECISION = 0.98
Quality = dict[str, Any]


def truth_indices(answerer: Answerer, labels: Mapping[str, LabelColumn]) -> dict[str, NDArray[np.int64]]:
    """int64[N] per attribute: index of the true label; -1 where there is none, -2 where the model has no such label."""
    result = {}
    for name in answerer.attributes:
        index = {label: i for i, label in enumerate(answerer.attribute_labels[name])}
        result[name] = np.array([index.get(str(v), UNSEEN_LABEL) if str(v) else NO_LABEL for v in labels[name]], np.int64)
    return result


def served_answers(
    answerer: Answerer, outputs: Outputs, pattern: Pattern, attribute: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """int64[N] and float64[N]: the label that the service answers for every row, and how sure it is. With photo and title it is
    the photo's alone where the service leaves the title out."""
    guess, confidence = _read(answerer, outputs, pattern, attribute)
    if pattern == "both" and (left_out := answerer.leaves_title_out(outputs)).any():
        of_photo, sure = _read(answerer, outputs, "image", attribute)
        guess, confidence = np.where(left_out, of_photo, guess), np.where(left_out, sure, confidence)
    return guess, confidence


def _read(
    answerer: Answerer, outputs: Outputs, pattern: Pattern, attribute: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    logits = outputs[f"{OUTPUT_OF_PATTERN[pattern]}_logits"]
    guess = answerer.layout.best_labels(logits, attribute)
    probabilities = answerer.layout.probabilities(logits, attribute, answerer.temperature(pattern, attribute))
    return guess, probabilities[np.arange(len(guess)), guess]


def attribute_quality(
    answerer: Answerer,
    outputs: Outputs,
    truth: Mapping[str, NDArray[np.int64]],
    pattern: Pattern,
    usable: NDArray[np.bool_],
) -> Quality:
    """Per attribute: `n`, `accuracy`, `macro_f1` (classes with n >= 10), `ece` (15 bins, debiased), over the usable rows
    that have a label."""
    result: Quality = {}
    for name, target in truth.items():
        chosen = usable & (target != NO_LABEL)
        if not chosen.any():
            continue
        guess, confidence = (values[chosen] for values in served_answers(answerer, outputs, pattern, name))
        right = guess == target[chosen]
        result[name] = {
            "n": int(chosen.sum()),
            "accuracy": float(right.mean()),
            "macro_f1": _number(macro_f1(target[chosen], guess)),
            "ece": _number(expected_calibration_error(confidence, right)),
        }
    return result


def changed_quality(changed: Quality, plain: Quality) -> Quality:
    """The figures with `change`: what the accuracy gained on the plain inputs' (a share of one, mostly negative)."""
    return {
        name: entry | {"change": entry["accuracy"] - plain[name]["accuracy"]}
        for name, entry in changed.items()
        if name in plain
    }


def answers(
    answerer: Answerer,
    outputs: Outputs,
    *,
    image: bool,
    text: bool,
    precision: float = REPORTED_PRECISION,
    top_k: int = 1,
) -> list[Classification]:
    """What the service would answer for every row."""
    return [
        answerer.classify(
            row(outputs, i),
            image_present=image,
            text_present=text,
            attributes=answerer.attributes,
            top_k=top_k,
            precision=precision,
        )
        for i in range(len(outputs["fused_logits"]))
    ]


def decision_quality(
    answerer: Answerer, given: Sequence[Classification], truth: Mapping[str, NDArray[np.int64]]
) -> tuple[Quality, float]:
    """Per attribute, over the rows that have a label: the share accepted at 0.98 and how right the accepted ones are.
    Second, the share of items that abstain."""
    result: Quality = {}
    for name, target in truth.items():
        labels = answerer.attribute_labels[name]
        accepted = [
            i for i, answer in enumerate(given) if target[i] != NO_LABEL and answer.attributes[name].decision == "accept"
        ]
        right = [given[i].attributes[name].label == labels[target[i]] for i in accepted if target[i] >= 0]
        known = int((target != NO_LABEL).sum())
        result[name] = {
            "accepted_share": len(accepted) / known if known else None,
            "accepted_precision": sum(right) / len(accepted) if accepted else None,
        }
    return result, abstaining_share(given)


def abstaining_share(given: Sequence[Classification]) -> float:
    """Share of items whose answer is `abstain`."""
    first = [next(iter(answer.attributes.values())).decision for answer in given]
    return sum(decision == "abstain" for decision in first) / max(1, len(first))


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value
