"""Changed titles stay titles: class words hide, letters slip, and the same seed gives the same titles."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.title_augmentation import FOREIGN_WORD_SHARE, TitleAugmentation, class_stems, mask_class_words, misspell, stem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tshirts", "t-shirt"),
        ("Watches", "watch"),
        ("Shoes", "shoe"),
        ("Jeans", "jean"),
        ("Caps", "cap"),
        ("Dresses", "dress"),
    ],
)
def test_singular_and_plural_share_a_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_unlike_words_keep_unlike_stems() -> None:
    assert len({stem(word) for word in ("shirt", "shoe", "short", "skirt", "watch")}) == 5


def test_class_words_are_hidden_in_every_spelling() -> None:
    stems = class_stems(["Sports Shoes", "Tshirts", "Watches"])
    title = "puma men black sport shoe with a t-shirt and watch"
    assert mask_class_words(title.split(" "), stems) == ["puma", "men", "black", "with", "a", "and"]


@given(st.text("abcdefgh", min_size=3, max_size=12), st.integers(0, 1000))
def test_a_misspelling_is_one_typing_error(word: str, seed: int) -> None:
    wrong = misspell(word, random.Random(seed))
    assert abs(len(wrong) - len(word)) <= 1
    prefix = next((i for i, (a, b) in enumerate(zip(word, wrong, strict=False)) if a != b), min(len(word), len(wrong)))
    backwards = zip(reversed(word), reversed(wrong), strict=False)
    suffix = next((i for i, (a, b) in enumerate(backwards) if a != b), min(len(word), len(wrong)))
    assert prefix + suffix >= len(word) - 2, "everything but the place of the error is as it was"


def test_short_words_are_left_alone() -> None:
    assert misspell("xl", random.Random(0)) == "xl"


def test_the_same_seed_gives_the_same_titles() -> None:
    stems = class_stems(["Tshirts"])
    titles = [f"puma men grey t-shirt number {i}" for i in range(100)]
    one, two, three = ([TitleAugmentation(stems, ["watch"], seed)(t) for t in titles] for seed in (1, 1, 2))
    assert one == two
    assert one != three


def test_most_titles_stay_readable_and_some_lose_their_class_word() -> None:
    augment = TitleAugmentation(class_stems(["Tshirts"]), ["watch"], 7)
    changed = [augment("Puma Men Grey T-shirt") for _ in range(1000)]
    assert 0.4 < sum("t-shirt" in title for title in changed) / 1000 < 0.75
    assert sum("puma" in title for title in changed) / 1000 > 0.85
    assert 0.2 < sum(title == "puma men grey t-shirt" for title in changed) / 1000 < 0.5
    assert abs(sum("watch" in title for title in changed) / 1000 - FOREIGN_WORD_SHARE) < 0.05
