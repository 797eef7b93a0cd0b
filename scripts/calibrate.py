"""From validation outputs to `calibration.json`: how sure is sure, when to accept, what is unfamiliar, what disagrees.

Owns the fitting of every parameter that `app.engine.answers` reads, with that module's own arithmetic. Only validation
rows are used; the test split is never seen here. Too few rows give no threshold, and no threshold means `review`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from app.engine.answers import OUTPUT_OF_PATTERN, PATTERNS, Answerer, LabelLayout, agreement_features
from app.engine.items import Pattern
from app.engine.text import TitleTokenizer
from scripts.batches import Rows
from scripts.contradiction import Ask, Outputs, fit_contradiction
from scripts.labels import UNKNOWN, LabelSpace
from scripts.predictions import predict
from scripts.statistics import logistic_regression, shows_proportion

PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
CONFIDENCE_LEVEL = 0.95
# Of the doubt that this leaves, what is spent on a search from half of the rows on (`accept_thresholds`); the rest is for one
# from the surest on.
_DOUBT_AT_HALF = 0.04
# Of the validation rows at most 1 % may abstain; half of that leaves room for the test rows to differ.
ABSTAINING_SHARE = 0.005
MIN_ROWS_FAMILIARITY = 40
MIN_ROWS_AGREEMENT = 100
# An attribute that most rows lack says little about whether photo and title agree.
MIN_COVERAGE_AGREEMENT = 0.5
CONFLICTING_SHARE = 0.01


def calibrate(
    model: keras.Model,
    rows: Rows,
    val_rows: NDArray[np.int64],
    *,
    tokenizer: TitleTokenizer | None,
    space: LabelSpace,
    applies: Mapping[str, Sequence[bool]],
    seed: int,
) -> dict[str, Any]:
    """All parameters for a bundle, from the network's outputs on the validation rows."""
    labels_json = space.to_json(applies)
    titles = [rows.titles[row] for row in val_rows]
    title_present = np.array([bool(title.strip()) for title in titles], bool)

    def ask(chosen: NDArray[np.int64], photos: NDArray[np.uint8], titles: list[str]) -> Outputs:
        return predict(model, rows, val_rows[chosen], tokenizer=tokenizer, photos=photos, titles=titles)

    return calibrate_outputs(
        predict(model, rows, val_rows, tokenizer=tokenizer) if len(val_rows) else {},
        published_truth(space, rows.labels[val_rows]),
        ask=ask,
        photos=rows.photos[val_rows],
        titles=titles,
        labels_json=labels_json,
        photo_present=rows.photo_present[val_rows],
        title_present=title_present & (tokenizer is not None),
        title_group=rows.title_group[val_rows],
        reads_titles=tokenizer is not None,
        seed=seed,
    )


def calibrate_outputs(
    outputs: Outputs,
    truth: Mapping[str, NDArray[np.int64]],
    *,
    ask: Ask,
    photos: NDArray[np.uint8],
    titles: Sequence[str],
    labels_json: Mapping[str, Any],
    photo_present: NDArray[np.bool_],
    title_present: NDArray[np.bool_],
    title_group: NDArray[np.int32],
    reads_titles: bool,
    seed: int,
) -> dict[str, Any]:
    """The same from any outputs of N rows and their true labels (`truth` as `published_truth` gives it). `ask` gives the
    outputs of some of the rows (int64[M]) with other photos and titles in place of theirs."""
    has_image = bool(photo_present.any())
    patterns = [p for p in PATTERNS if (p == "image" or reads_titles) and (p == "text" or has_image)]
    if not len(photo_present):
        return {
            "format_version": 1,
            "patterns": {p: {"temperature": {}, "thresholds": {}} for p in patterns},
            "in_domain": {},
            "agreement": None,
        }
    usable = {"both": photo_present & title_present, "image": photo_present, "text": title_present}
    calibration: dict[str, Any] = {
        "format_version": 1,
        "patterns": {
            pattern: _calibrate_pattern(labels_json, outputs[f"{OUTPUT_OF_PATTERN[pattern]}_logits"], truth, usable[pattern])
            for pattern in patterns
        },
        "in_domain": {
            modality: {"min_logit": familiarity_limit(outputs[f"{modality}_in_domain"][usable[modality]])}
            for modality in ("image", "text")
            if modality in patterns
        },
        "agreement": None,
    }
    if "both" in patterns and usable["both"].sum() >= MIN_ROWS_AGREEMENT:
        both = {name: value[usable["both"]] for name, value in outputs.items()}
        true = {name: column[usable["both"]] for name, column in truth.items()}
        known = {name: column != UNKNOWN for name, column in true.items()}
        agreement = _calibrate_agreement(Answerer(labels_json, calibration), both, title_group[usable["both"]], known, seed)
        calibration["agreement"] = agreement
        rows = np.flatnonzero(usable["both"])
        agreement["contradiction"] = fit_contradiction(
            Answerer(labels_json, calibration),
            both,
            lambda chosen, *changed: ask(rows[chosen], *changed),
            photos[rows],
            [titles[row] for row in rows.tolist()],
            true,
            seed=seed,
        )
        if agreement["contradiction"] is None:
            print("no title will be left out as another product's: too few labelled rows, or too little to tell them by")
    return calibration


def published_truth(space: LabelSpace, encoded: NDArray[np.int32]) -> dict[str, NDArray[np.int64]]:
    """int64[N] per attribute: index of the true label among the published ones, -1 where unknown."""
    return {name: encoded[:, space.columns.index(name)].astype(np.int64) for name in space.attributes}


def _calibrate_pattern(
    labels_json: Mapping[str, Any],
    logits: NDArray[Any],
    truth: Mapping[str, NDArray[np.int64]],
    usable: NDArray[np.bool_],
) -> dict[str, Any]:
    layout = LabelLayout(labels_json)
    temperature: dict[str, float] = {}
    thresholds: dict[str, list[list[float]]] = {}
    for name, target in truth.items():
        chosen = usable & (target != UNKNOWN)
        if not chosen.any():
            temperature[name] = 1.0
            continue
        temperature[name] = fit_temperature(layout, logits[chosen], name, target[chosen])
        probabilities = layout.probabilities(logits[chosen], name, temperature[name])
        guess = layout.best_labels(logits[chosen], name)
        confidence = probabilities[np.arange(len(guess)), guess]
        thresholds[name] = accept_thresholds(confidence, guess == target[chosen])
    return {"temperature": temperature, "thresholds": thresholds}


def fit_temperature(layout: LabelLayout, logits: NDArray[Any], attribute: str, target: NDArray[np.int64]) -> float:
    """The temperature with the least negative log-likelihood (Guo et al. 2017, arXiv:1706.04599), by golden section.

    A parent's probability is the sum over its paths at its own temperature. With few rows it is drawn towards 1.
    """
    rows = np.arange(len(target))

    def loss(log_temperature: float) -> float:
        p = layout.probabilities(logits, attribute, float(np.exp(log_temperature)))[rows, target]
        return float(-np.log(p + 1e-12).sum() + 4.0 * log_temperature**2)

    low, high = np.log(0.2), np.log(5.0)
    ratio = (np.sqrt(5.0) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(30):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return round(float(np.exp((low + high) / 2)), 4)


def accept_thresholds(confidence: NDArray[Any], right: NDArray[np.bool_]) -> list[list[float]]:
    """Pairs (precision, least confidence), as far as the data show them with 95 % confidence.

    Fixed-sequence testing from several starts (Angelopoulos et al. 2021, "Learn then Test", arXiv:2110.01052): from the
    surest answers down, and from half of the rows down, a cut is kept while the exact binomial bound on its precision holds;
    the first failure ends the sequence, so looking at many cuts does not spend the confidence, and the two sequences share
    it. Among the surest a single wrong label ends a sequence, half of the rows can bear a few. Serving accepts every answer
    that is at least as sure, so a cut never parts answers of one confidence.
    """
    # Six decimals, downwards: what differs by less is noise between machines.
    confidence = np.floor(np.asarray(confidence, np.float64) * 1e6) / 1e6
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, hits = confidence[order], np.cumsum(right[order])
    total = len(order)
    pairs = []
    for precision in PRECISIONS:
        kept = None
        for start, doubt in _starts(total, precision):
            # Steps of 2 % of the rows.
            cuts = [*range(start, total + 1, max(1, total // 50)), total]
            as_sure = sorted_confidence[np.array(cuts) - 1]
            for cut in np.unique(np.searchsorted(-sorted_confidence, -as_sure, side="right")).tolist():
                if not shows_proportion(int(hits[cut - 1]), cut, precision, 1 - doubt):
                    break
                kept = min(float(sorted_confidence[cut - 1]), 1.0 if kept is None else kept)
        if kept is not None:
            pairs.append([precision, kept])
    return pairs


def _starts(total: int, precision: float) -> list[tuple[int, float]]:
    """Where sequences of cuts through `total` rows begin, and the doubt that each may leave. It depends on nothing else, so it
    spends no confidence."""

    def fewest(doubt: float) -> int:
        """Faultless answers that can show this precision at all; cuts above that could only fail."""
        return int(np.ceil(np.log(doubt) / np.log(precision)))

    doubt = 1 - CONFIDENCE_LEVEL
    starts = []
    if total // 2 >= fewest(_DOUBT_AT_HALF):
        starts.append((total // 2, _DOUBT_AT_HALF))
        doubt -= _DOUBT_AT_HALF
    if total >= fewest(doubt):
        # With room for a stray error.
        starts.append((min(total, int(fewest(doubt) * 1.6) + 1), doubt))
    return starts


def familiarity_limit(logits: NDArray[Any]) -> float | None:
    """The limit under which `ABSTAINING_SHARE` of the validation rows lie; None with too few rows to know."""
    if len(logits) < MIN_ROWS_FAMILIARITY:
        return None
    return float(np.sort(logits)[int(ABSTAINING_SHARE * len(logits))])


def _calibrate_agreement(
    answerer: Answerer,
    outputs: Mapping[str, NDArray[Any]],
    groups: NDArray[np.int32],
    known: Mapping[str, NDArray[np.bool_]],
    seed: int,
) -> dict[str, Any]:
    """Logistic regression between a photo with its own title and the same photo with another product's."""
    names = [name for name in answerer.attributes if known[name].mean() >= MIN_COVERAGE_AGREEMENT]
    rng = np.random.default_rng(seed)
    other = rng.permutation(len(groups))
    different = groups[other] != groups
    swapped = {name: (value[other] if name.startswith("text_") else value)[different] for name, value in outputs.items()}
    matched_features = agreement_features(answerer, outputs, names)
    swapped_features = agreement_features(answerer, swapped, names)
    columns = ["cosine", *names]
    x = np.concatenate([np.stack([f[c] for c in columns], axis=1) for f in (matched_features, swapped_features)])
    y = np.concatenate([np.ones(len(groups)), np.zeros(int(different.sum()))])
    weights, bias = logistic_regression(x, y, ridge=1.0)
    return {
        "features": columns,
        "weights": [round(float(w), 5) for w in weights],
        "bias": round(float(bias), 5),
        "conflict_below": {name: _conflict_limit(answerer, outputs, matched_features[name], name) for name in names},
    }


def _conflict_limit(answerer: Answerer, outputs: Mapping[str, NDArray[Any]], overlap: NDArray[Any], name: str) -> float:
    """The overlap under which at most `CONFLICTING_SHARE` of the matching pairs differ in this attribute."""
    labels = [answerer.layout.best_labels(outputs[f"{side}_logits"], name) for side in ("image", "text")]
    differing = np.sort(overlap[labels[0] != labels[1]])
    allowed = int(CONFLICTING_SHARE * len(overlap))
    limit = differing[allowed] if len(differing) > allowed else 0.2
    return round(float(min(limit, 0.2)), 6)


def pattern_of(has_image: bool, has_text: bool) -> Pattern:
    """The input pattern of an item."""
    return "both" if has_image and has_text else "image" if has_image else "text"
