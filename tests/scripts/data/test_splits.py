from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scripts.data.splits import complete_split, group_rows, split_rows

TITLES = st.lists(st.sampled_from(["", "Red  shirt", "red shirt", "RED SHIRT ", "Blue shoe", "Bag", "Straße", "STRASSE"]))


def splits_of(groups: Sequence[str], split: NDArray[np.str_]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for group, name in zip(groups, split.tolist(), strict=True):
        found[group].add(name)
    return found


@given(st.lists(st.tuples(st.text(max_size=3), st.sampled_from(["", "p1", "p2", "p3"])), max_size=60), st.integers(0, 9))
def test_no_title_and_no_photo_crosses_a_split(rows: list[tuple[str, str]], seed: int) -> None:
    titles, photos = [title for title, _ in rows], [photo for _, photo in rows]
    split = split_rows(group_rows(titles, photos), seed=seed)
    by_title, by_photo = splits_of([" ".join(t.casefold().split()) for t in titles], split), splits_of(photos, split)
    for title, names in by_title.items():
        assert len(names) == 1 or title == ""
    for photo, names in by_photo.items():
        assert len(names) == 1 or photo == "" or photos.count(photo) > 20


@given(TITLES, st.integers(0, 5))
def test_the_split_is_deterministic_and_ignores_the_order_of_rows(titles: list[str], seed: int) -> None:
    groups = group_rows(titles, [""] * len(titles))
    named = [group for group in groups if not group.startswith("row ")]
    forward, backward = split_rows(named, seed=seed), split_rows(named[::-1], seed=seed)
    assert forward.tolist() == backward[::-1].tolist()


@pytest.mark.parametrize(("count", "expected"), [(1, {"train"}), (2, {"train", "val"}), (3, {"train", "val", "test"})])
@pytest.mark.parametrize("seed", range(20))
def test_tiny_sets_fill_train_then_val_then_test(count: int, expected: set[str], seed: int) -> None:
    assert set(split_rows([f"g{i}" for i in range(count)], seed=seed)) == expected


def test_no_rows_give_no_split() -> None:
    assert split_rows([], seed=1).shape == (0,)


def test_shares_are_about_80_10_10_and_stay_when_rows_are_added() -> None:
    groups = [f"title {i}" for i in range(5000)]
    split = split_rows(groups, seed=1)
    shares = {name: (split == name).mean() for name in ("train", "val", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.02)
    assert shares["val"] == pytest.approx(0.1, abs=0.02)
    more = split_rows([*groups, *(f"new {i}" for i in range(500))], seed=1)
    assert more[:5000].tolist() == split.tolist()


def test_another_seed_gives_another_split() -> None:
    groups = [f"title {i}" for i in range(100)]
    assert split_rows(groups, seed=1).tolist() != split_rows(groups, seed=2).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_a_title_on_half_of_the_rows_trains(seed: int) -> None:
    split = split_rows(["common"] * 50 + [f"g{i}" for i in range(50)], seed=seed)
    assert set(split[:50]) == {"train"}


def test_variants_with_one_photo_stay_together_but_a_placeholder_binds_nothing() -> None:
    small, medium = group_rows(["Shirt S", "Shirt M"], ["p", "p"])
    assert small == medium
    placeholder = group_rows([f"Product {i}" for i in range(40)], ["none.jpg"] * 40)
    assert len(set(placeholder)) == 40


def test_a_missing_val_is_carved_out_of_train_and_test_is_left_alone() -> None:
    given_split = np.array(["train"] * 90 + ["test"] * 10)
    groups = [f"g{i // 2}" for i in range(100)]
    split, notes = complete_split(given_split, groups, seed=1)
    assert split[90:].tolist() == ["test"] * 10
    assert set(split[:90]) == {"train", "val"}
    assert all(len(names) == 1 for names in splits_of(groups, split).values())
    assert any("no val" in note for note in notes)


def test_val_and_test_are_both_carved_when_only_train_is_given() -> None:
    split, _ = complete_split(np.array(["train"] * 100, dtype="<U5"), [f"g{i}" for i in range(100)], seed=1)
    assert set(split) == {"train", "val", "test"}
    assert (split == "train").sum() >= 70


def test_a_given_split_that_leaks_is_kept_and_said_so() -> None:
    split, notes = complete_split(np.array(["train", "val", "test", "test"]), ["a", "b", "a", "c"], seed=1)
    assert split.tolist() == ["train", "val", "test", "test"]
    assert any(note.startswith("1 held-out rows") for note in notes)
