"""When a title is taken for another product's, and left out of the answer.

Owns the examples and the fit. A photo and a title may differ because the title is another product's, or because one of them is
hard to read: something else shines through the photo, words are misspelt or missing. Only the first is a contradiction, so the
rule is learnt from both: validation photos beside titles of other families, and validation items made worse as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from app.engine.agreement_table import log_overlap
from app.engine.answers import Answerer, contradiction_features
from scripts.finishing import MIXED_SHARE
from scripts.image_augmentation import PhotoMixing
from scripts.labels import UNKNOWN
from scripts.statistics import area_under_roc, logistic_regression
from scripts.title_augmentation import TitleAugmentation, class_stems

Outputs = Mapping[str, NDArray[Any]]
Ask = Callable[[NDArray[np.int64], NDArray[np.uint8], list[str]], Outputs]
"""The outputs of some of N items (int64[M]) with other photos uint8[M, H, W, 3] and titles in place of theirs."""
ROUNDS = 4
"""Of other titles for every photo, and of damage to every item."""
FOLDS = 5
"""Items are scored by weights that were fitted without them, where the cut is sought: those that are served are others too."""
MIN_SWAPPED = 50
MAX_ITEMS = 4000
"""Enough for the weights; a whole catalogue's photos would be in memory once more, damaged."""
MIN_AUROC = 0.9
"""A rule that tells other families' titles from the rows' own worse than this is none."""
SWAPPED_COST = 0.0015
"""How many right answers titles of other families may cost where they are kept, as a share of all such titles: half of the
half point that is promised, since the items that are served are others."""
OWN_COST = 0.005
"""How many right answers leaving titles out may cost items with their own titles, as a share of these. `SWAPPED_COST` comes
second. Photos of another product altogether are one in three hundred, and there the label follows the title: to a rule such an
item is a foreign title, so that less would leave no room for the promise."""
OWN_SHARE = 0.01


def damaged_items(
    photos: NDArray[np.uint8], titles: Sequence[str], *, labels: Iterable[str], seed: int, batch_size: int = 256
) -> tuple[NDArray[np.uint8], list[str]]:
    """N items made harder to read: photos mixed with others, titles with words hidden, misspelt, lost and slipped in."""
    names = sorted(set(labels))
    augment = TitleAugmentation(class_stems(names), [name.lower() for name in names], seed)
    mix = PhotoMixing(MIXED_SHARE, seed=seed)
    order = np.random.default_rng(seed).permutation(len(photos))
    mixed = np.array(photos)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        present = keras.ops.ones((len(chosen),), "bool")
        mixed[chosen] = np.round(np.asarray(mix(keras.ops.cast(photos[chosen], "float32"), present)[0])).astype(np.uint8)
    return mixed, [augment(title) for title in titles]


def fit_contradiction(
    answerer: Answerer,
    own: Outputs,
    ask: Ask,
    photos: NDArray[np.uint8],
    titles: Sequence[str],
    truth: Mapping[str, NDArray[np.int64]],
    *,
    seed: int,
) -> dict[str, Any] | None:
    """`calibration.json`'s `agreement.contradiction`, from N items with photo and title: what the network makes of them
    (`own`) and, if asked, of other photos and titles in their places; `truth` int64[N] per attribute, -1 where unknown.

    None where too few photos can be given another family's title, or the two cannot be told apart.
    """
    chosen = np.random.default_rng(seed).permutation(len(titles))[:MAX_ITEMS]
    own = {name: value[chosen] for name, value in own.items()}
    truth = {name: column[chosen] for name, column in truth.items()}
    photos, titles = photos[chosen], [titles[row] for row in chosen.tolist()]
    levels = list(dict.fromkeys((answerer.kind_attribute, answerer.family_attribute)))
    fold = np.arange(len(titles)) % FOLDS
    labels = [label for labels in answerer.attribute_labels.values() for label in labels]
    strange: list[NDArray[Any]] = []
    familiar = [_features(answerer, own)]
    strange_folds: list[NDArray[Any]] = []
    familiar_folds = [fold]
    lost: dict[str, list[NDArray[Any]]] = {name: [] for name in levels}
    for number in range(ROUNDS):
        other, differs = _other_families(truth[answerer.family_attribute], np.random.default_rng([seed, number]))
        if differs.sum() < MIN_SWAPPED:
            return None
        swapped = ask(chosen, photos, [titles[row] for row in other])
        strange.append(_features(answerer, swapped)[differs])
        strange_folds.append(fold[differs])
        for name in levels:
            lost[name].append(_gained(answerer, swapped, truth, name, by="image", over="fused")[differs])
        worse = damaged_items(photos, titles, labels=labels, seed=seed + number)
        is_title = np.array([bool(title.strip()) for title in worse[1]])
        familiar.append(_features(answerer, ask(chosen, *worse))[is_title])
        familiar_folds.append(fold[is_title])
    x, folds = np.concatenate([*strange, *familiar]), np.concatenate([*strange_folds, *familiar_folds])
    swaps = sum(map(len, strange))
    y = (np.arange(len(x)) < swaps).astype(np.float64)
    scores = _unseen_scores(x, y, folds)
    own_scores = scores[swaps : swaps + len(titles)]
    if area_under_roc(scores[:swaps], own_scores) < MIN_AUROC:
        return None
    cut = max(
        min(highest_cut(scores[:swaps], np.concatenate(lost[name])) for name in levels),
        *(lowest_cut(own_scores, _gained(answerer, own, truth, name, by="fused", over="image")) for name in levels),
    )
    weights, bias = _fitted(x, y)
    cosine, image_in_domain, text_in_domain, *by_attribute = (round(float(weight), 6) for weight in weights)
    names = answerer.attributes
    return {
        "cosine": cosine,
        "image_in_domain": image_in_domain,
        "text_in_domain": text_in_domain,
        "overlap": dict(zip(names, by_attribute[: len(names)], strict=True)),
        "sureness": dict(zip(names, by_attribute[len(names) :], strict=True)),
        "bias": round(bias - cut, 6),
    }


def _unseen_scores(x: NDArray[np.float64], y: NDArray[np.float64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64[N]: of every row by weights that were fitted on the other folds."""
    scores = np.zeros(len(x))
    for number in range(FOLDS):
        of_fold = folds == number
        weights, bias = _fitted(x[~of_fold], y[~of_fold])
        scores[of_fold] = x[of_fold] @ weights + bias
    return scores


def _fitted(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Weights float64[F] and bias of what tells other titles (1) from the items' own (0)."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    weights, bias = logistic_regression((x - mean) / spread, y, ridge=1.0)
    weights = weights / spread
    return weights, bias - float(mean @ weights)


def highest_cut(scores: NDArray[Any], lost: NDArray[Any]) -> float:
    """The highest score up to which titles of other families may be kept: `lost` is 1 where such a title costs a right answer,
    -1 where it brings one, and NaN where the right answer is not known."""
    known = ~np.isnan(lost)
    ends, total = _running(scores[known], lost[known])
    too_dear = np.flatnonzero(total > SWAPPED_COST * known.sum())
    kept = int(too_dear[0]) if len(too_dear) else len(ends)
    return float(ends[kept - 1]) if kept else float(scores.min()) - 1.0


def lowest_cut(scores: NDArray[Any], lost: NDArray[Any]) -> float:
    """The lowest score above which items' own titles may be left out: `lost` is 1 where that costs a right answer, -1 where it
    brings one, and NaN where the right answer is not known."""
    known = ~np.isnan(lost)
    ends, total = _running(-scores[known], lost[known])
    too_dear = np.flatnonzero(total > OWN_COST * known.sum())
    dear = -float(ends[too_dear[0]]) if len(too_dear) else -np.inf
    return max(dear, float(np.sort(scores)[::-1][int(OWN_SHARE * len(scores))]))


def _running(scores: NDArray[Any], lost: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The different scores, rising, and what is lost up to and with each."""
    ends, group = np.unique(scores, return_inverse=True)
    return ends, np.cumsum(np.bincount(group, weights=lost, minlength=len(ends)))


def _other_families(family: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For N items another item each, and where the two are known to be of different families."""
    other = rng.permutation(len(family))
    return other, (family != family[other]) & (family != UNKNOWN) & (family[other] != UNKNOWN)


def _features(answerer: Answerer, outputs: Outputs) -> NDArray[np.float64]:
    """float64[N, 3 + 2 attributes], as `app.engine.agreement_table.Contradiction` reads them."""
    cosine, overlap, sureness = contradiction_features(answerer, outputs, answerer.attributes)
    by_attribute = log_overlap(np.concatenate([overlap, sureness]))
    return np.stack([cosine, outputs["image_in_domain"], outputs["text_in_domain"], *by_attribute], axis=1)


def _gained(
    answerer: Answerer, outputs: Outputs, truth: Mapping[str, NDArray[np.int64]], name: str, *, by: str, over: str
) -> NDArray[np.float64]:
    """float64[N]: 1 where one side's label is right and the other's is wrong, -1 the other way round, NaN where the truth is
    not known."""
    right = [answerer.layout.best_labels(outputs[f"{side}_logits"], name) == truth[name] for side in (by, over)]
    return np.where(truth[name] == UNKNOWN, np.nan, right[0].astype(float) - right[1].astype(float))
