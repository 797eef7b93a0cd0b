"""The damage is what it says, and the same for the same seed."""

from __future__ import annotations

import random

import numpy as np

from scripts.evaluation.noise import blended_photos, damaged_title


def test_a_foreign_word_comes_in_and_about_a_tenth_of_the_words_is_lost() -> None:
    rng = random.Random(1)
    title = " ".join(f"word{i}" for i in range(20))
    kept = [damaged_title(title, ["watch"], rng).split(" ") for _ in range(200)]
    assert all(words.count("watch") == 1 for words in kept)
    assert 17.5 < np.mean([len(words) - 1 for words in kept]) < 18.5
    known = set(title.split(" "))
    assert 0.10 < np.mean([word not in known for words in kept for word in words if word != "watch"]) < 0.20


def test_a_title_is_never_lost_whole_and_an_absent_one_stays_absent() -> None:
    assert all(damaged_title("shoe", [], random.Random(seed)) for seed in range(50))
    assert damaged_title("  ", ["watch"], random.Random(1)) == ""


def test_the_same_seed_does_the_same_damage() -> None:
    assert damaged_title("puma men grey", ["watch"], random.Random(4)) == damaged_title(
        "puma men grey", ["watch"], random.Random(4)
    )


def test_a_photo_is_blended_with_another_where_both_are_there() -> None:
    photos = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (100, 200, 50)])
    blended = blended_photos(photos, np.array([True, True, False]), np.array([1, 2, 0]), share=0.3)
    assert np.unique(blended[0]).tolist() == [130]
    assert np.unique(blended[1]).tolist() == [200], "its partner has no photo"
    assert np.unique(blended[2]).tolist() == [50]
