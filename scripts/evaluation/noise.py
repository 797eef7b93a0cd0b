"""P5: damaged titles and photos with something else shining through.

Owns the damage, seeded: 15 % of the words with a typing error, 10 % lost, one word of a foreign class slipped in, and a
third of another product's photo blended in.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.engine.text import clean_title
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import Quality, attribute_quality, changed_quality
from scripts.title_augmentation import misspell

TYPO_SHARE = 0.15
LOST_SHARE = 0.10
BLENDED_SHARE = 0.3


def damaged_title(title: str, foreign_words: Sequence[str], rng: random.Random) -> str:
    """The title (cleaned) with typing errors, lost words, and one of `foreign_words` somewhere. "" stays ""."""
    words = [word for word in clean_title(title).split(" ") if word]
    if not words:
        return ""
    kept = [word for word in words if rng.random() >= LOST_SHARE] or [rng.choice(words)]
    kept = [misspell(word, rng) if rng.random() < TYPO_SHARE else word for word in kept]
    if foreign_words:
        kept.insert(rng.randint(0, len(kept)), rng.choice(foreign_words))
    return " ".join(kept)


def blended_photos(
    photos: NDArray[np.uint8], present: NDArray[np.bool_], other: NDArray[np.int64], share: float = BLENDED_SHARE
) -> NDArray[np.uint8]:
    """uint8[N, H, W, 3]: of photo i, `share` is photo `other[i]`. Absent photos neither change nor shine through."""
    result = np.array(photos)
    for i in np.flatnonzero(present & present[other]):
        result[i] = np.round((1 - share) * photos[i].astype(np.float32) + share * photos[other[i]].astype(np.float32))
    return result


def measure_noise(evaluation: Evaluation) -> Quality:
    """Figures per input pattern, with `change` against the undamaged inputs."""
    if not evaluation.patterns:
        raise NotApplicable("no row has a photo or a title")
    rng = random.Random(evaluation.seed)
    kind = evaluation.kind_attribute
    labels = [clean_title(label).split(" ") for label in evaluation.answerer.attribute_labels[kind]]
    titles = None
    if evaluation.titles is not None:
        titles = []
        for title, own in zip(evaluation.titles, evaluation.truth[kind], strict=True):
            own_words = set(labels[own]) if own >= 0 else set()
            foreign = labels[rng.randrange(len(labels))]
            titles.append(damaged_title(title, [word for word in foreign if word not in own_words], rng))
    photos = None
    if evaluation.photos is not None:
        other = np.random.default_rng(evaluation.seed).permutation(len(evaluation.rows))
        photos = blended_photos(evaluation.photos, evaluation.photo_present, other)
    outputs = evaluation.changed("noise in titles and photos", photos=photos, titles=titles)
    result: Quality = {}
    for pattern in evaluation.patterns:
        usable = evaluation.usable(pattern)
        plain = attribute_quality(evaluation.answerer, evaluation.outputs, evaluation.truth, pattern, usable)
        found = attribute_quality(evaluation.answerer, outputs, evaluation.truth, pattern, usable)
        result[pattern] = changed_quality(found, plain)
    return result
