"""Random changes to training titles: class words hidden, typing errors, words lost, a foreign word slipped in.

Owns the recipe. A model that always sees the class word in the title learns to read nothing else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence

from app.engine.text import clean_title

_WORD = re.compile(r"[^\W\d_]{3,}")
FOREIGN_WORD_SHARE = 0.3
"""Titles that name a class of something else beside their own ("with free socks"): the photo must then say which is meant."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def stem(word: str) -> str:
    """A rough singular, enough to match "Tshirts" with "t-shirt" and "Watches" with "watch"."""
    word = re.sub(r"[^\w]", "", word.lower())
    for ending in ("es", "s"):
        if not word.endswith("ss") and word.endswith(ending) and len(word) > len(ending) + 2:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


def class_stems(labels: Iterable[str]) -> frozenset[str]:
    """Stems of all words that name a label."""
    return frozenset(stem(word) for label in labels for word in _WORD.findall(clean_title(label)))


class TitleAugmentation:
    """Change titles at random; one instance per epoch, seeded. `strength` in [0, 1] scales how often."""

    def __init__(self, stems: frozenset[str], foreign_words: Sequence[str], seed: int, strength: float = 1.0) -> None:
        self._strength = strength
        self._stems = stems
        self._foreign = foreign_words
        self._random = random.Random(seed)

    def __call__(self, title: str) -> str:
        rng = self._random
        words = clean_title(title).split(" ")
        if rng.random() < 0.35 * self._strength:
            words = mask_class_words(words, self._stems)
        if rng.random() < 0.25 * self._strength:
            words = [word for word in words if rng.random() > 0.15]
        if rng.random() < 0.25 * self._strength:
            words = [misspell(word, rng) if rng.random() < 0.2 else word for word in words]
        if self._foreign and rng.random() < FOREIGN_WORD_SHARE * self._strength:
            words.insert(rng.randint(0, len(words)), rng.choice(self._foreign))
        return " ".join(words)


def mask_class_words(words: Sequence[str], stems: frozenset[str]) -> list[str]:
    """Leave out the words that name a class ("t-shirt" as much as "tshirts")."""
    return [word for word in words if stem(word) not in stems]


def misspell(word: str, rng: random.Random) -> str:
    """One typing error: a letter swapped with the next, lost, doubled or mistyped."""
    if len(word) < 3:
        return word
    at = rng.randrange(len(word) - 1)
    match rng.randrange(4):
        case 0:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case 1:
            return word[:at] + word[at + 1 :]
        case 2:
            return word[:at] + word[at] + word[at:]
        case _:
            return word[:at] + rng.choice(_LETTERS) + word[at + 1 :]
