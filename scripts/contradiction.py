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

from app.engine.agreement_table import OVERLAP_FLOOR
from app.engine.answers import Answerer, agreement_features
from scripts.finishing import MIXED_SHARE
from scripts.image_augmentation import PhotoMixing
from scripts.labels import UNKNOWN
from scripts.statistics import logistic_regression
from scripts.title_augmentation import TitleAugmentation, class_stems

Outputs = Mapping[str, NDArray[Any]]
ROUNDS = 2
"""Of other titles for every photo, and of damage to every item."""
MIN_SWAPPED = 50
SWAPPED_COST = 0.002
"""How many right answers titles of other families may cost where they are kept, as a share of all such titles: less than
half a point, which is promised, since the items that are served are others."""
OWN_COST = 0.0005
"""How many right answers leaving titles out may cost items with their own titles, as a share of these. `SWAPPED_COST` comes
second."""
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
    ask: Callable[[NDArray[np.uint8], list[str]], Outputs],
    photos: NDArray[np.uint8],
    titles: Sequence[str],
    truth: Mapping[str, NDArray[np.int64]],
    *,
    seed: int,
) -> dict[str, Any] | None:
    """`calibration.json`'s `agreement.contradiction`, from N items with photo and title: what the network makes of them
    (`own`) and, if asked, of other photos and titles in their places; `truth` int64[N] per attribute, -1 where unknown.

    None where too few photos can be given another family's title.
    """
    levels = tuple(dict.fromkeys((answerer.kind_attribute, answerer.family_attribute)))
    columns = ["cosine", "image_in_domain", "text_in_domain", *levels]
    labels = [label for labels in answerer.attribute_labels.values() for label in labels]
    strange: list[NDArray[Any]] = []
    familiar = [_features(answerer, own, columns)]
    lost: dict[str, list[NDArray[np.int64]]] = {name: [] for name in levels}
    for number in range(ROUNDS):
        other, differs = _other_families(truth[answerer.family_attribute], np.random.default_rng([seed, number]))
        if differs.sum() < MIN_SWAPPED:
            return None
        swapped = ask(photos, [titles[row] for row in other])
        strange.append(_features(answerer, swapped, columns)[differs])
        for name in levels:
            lost[name].append(_gained(answerer, swapped, truth, name, by="image", over="fused")[differs])
        worse = ask(*damaged_items(photos, titles, labels=labels, seed=seed + number))
        familiar.append(_features(answerer, worse, columns))
    x = np.concatenate([*strange, *familiar])
    y = np.arange(len(x)) < sum(map(len, strange))
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    weights = logistic_regression((x - mean) / spread, y.astype(np.float64), ridge=1.0)[0] / spread
    cut = max(
        min(highest_cut(np.concatenate(strange) @ weights, np.concatenate(lost[name])) for name in levels),
        *(lowest_cut(familiar[0] @ weights, _gained(answerer, own, truth, name, by="fused", over="image")) for name in levels),
    )
    return {"features": columns, "weights": [round(float(w), 6) for w in weights], "bias": round(-cut, 6)}


def highest_cut(scores: NDArray[Any], lost: NDArray[np.int64]) -> float:
    """The highest score up to which titles of other families may be kept: `lost` is 1 where such a title costs a right answer
    and -1 where it brings one."""
    order = np.argsort(scores, kind="stable")
    too_dear = np.flatnonzero(np.cumsum(lost[order]) > SWAPPED_COST * len(scores))
    kept = int(too_dear[0]) if len(too_dear) else len(scores)
    return float(scores[order[kept - 1]]) if kept else float(scores.min()) - 1.0


def lowest_cut(scores: NDArray[Any], lost: NDArray[np.int64]) -> float:
    """The lowest score above which items' own titles may be left out: `lost` is 1 where that costs a right answer, -1 where it
    brings one."""
    order = np.argsort(-scores, kind="stable")
    too_dear = np.flatnonzero(np.cumsum(lost[order]) > OWN_COST * len(scores))
    count = min([int(OWN_SHARE * len(scores)), *too_dear[:1].tolist()])
    return float(scores[order[count]])


def _other_families(family: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For N items another item each, and where the two are known to be of different families."""
    other = rng.permutation(len(family))
    return other, (family != family[other]) & (family != UNKNOWN) & (family[other] != UNKNOWN)


def _features(answerer: Answerer, outputs: Outputs, columns: Sequence[str]) -> NDArray[np.float64]:
    """float64[N, columns], as `app.engine.agreement_table.Contradiction` reads them."""
    levels = [name for name in columns if name in answerer.attributes]
    found = agreement_features(answerer, outputs, levels)
    return np.stack(
        [
            np.log(found[name] + OVERLAP_FLOOR) if name in levels else np.asarray({**outputs, **found}[name], np.float64)
            for name in columns
        ],
        axis=1,
    )


def _gained(
    answerer: Answerer, outputs: Outputs, truth: Mapping[str, NDArray[np.int64]], name: str, *, by: str, over: str
) -> NDArray[np.int64]:
    """int64[N]: 1 where one side's label is right and the other's is wrong, -1 the other way round."""
    right = [answerer.layout.best_labels(outputs[f"{side}_logits"], name) == truth[name] for side in (by, over)]
    return np.asarray(right[0].astype(np.int64) - right[1].astype(np.int64))
