"""One epoch of batches: every row once, repeatable, with its made outliers and swaps declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.text import TitleTokenizer
from scripts.batches import OUTLIER_SHARE, SWAPPED_TITLE_SHARE, Rows, TrainingBatches, group_titles

COUNT, TRAIN = 600, 500
WORDS = ("merino", "inox", "crystal", "walnut", "cotton")


def made_rows(**changes: Any) -> Rows:
    """Photo pixels and labels both hold the row's number."""
    number = np.arange(COUNT)
    photos = np.zeros((COUNT, 8, 8, 3), np.uint8)
    photos[..., 0], photos[..., 1] = (number // 256)[:, None, None], (number % 256)[:, None, None]
    titles = [f"{WORDS[i % 5]} {WORDS[i // 5 % 5]} bowl" if i % 10 else "" for i in range(COUNT)]
    values: dict[str, Any] = {
        "photos": photos,
        "photo_present": number % 7 != 0,
        "extra_photos": np.full((2, 8, 8, 3), 255, np.uint8),
        "extra_of_row": {1: 0, 2: 1},
        "titles": titles,
        "labels": number[:, None].astype(np.int32),
        "title_group": group_titles(titles),
    }
    return Rows(**(values | changes))


ROWS = made_rows()
TOKENIZER = TitleTokenizer.train(ROWS.titles, vocabulary_size=300, max_tokens=8)
# One piece per byte. Which merges are left out of a roughened title is drawn by the tokenizer library, which takes no
# seed; with no merges to leave out, everything must repeat.
BYTES = TitleTokenizer.train(ROWS.titles, vocabulary_size=257, max_tokens=20)


def batches_of(
    *, epoch: int = 0, seed: int = 1, tokenizer: TitleTokenizer | None = TOKENIZER, rows: Rows = ROWS
) -> TrainingBatches:
    return TrainingBatches(
        rows, np.arange(TRAIN), tokenizer=tokenizer, label_names=["bowl"], batch_size=64, seed=seed, epoch=epoch,
        strokes_are_outliers=True,
    )  # fmt: skip


def epoch_of(**choices: Any) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """A whole epoch's inputs and targets, joined."""
    batches = batches_of(**choices)
    parts = [batches[i] for i in range(len(batches))]
    x = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    y = {name: np.concatenate([part[1][name] for part in parts]) for name in parts[0][1]}
    return x, y


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def test_an_epoch_follows_from_its_seed_and_number() -> None:
    assert same(epoch_of(epoch=2, tokenizer=BYTES), epoch_of(epoch=2, tokenizer=BYTES))
    assert not same(epoch_of(epoch=2, tokenizer=BYTES), epoch_of(epoch=3, tokenizer=BYTES))
    assert not same(epoch_of(seed=1), epoch_of(seed=2))


def test_the_batches_may_be_read_in_any_order() -> None:
    forwards, backwards = batches_of(tokenizer=BYTES), batches_of(tokenizer=BYTES)
    late = backwards[5]
    assert same(backwards[0], forwards[0])
    assert same(late, forwards[5])


def test_every_training_row_comes_at_most_once_and_only_a_short_batch_is_dropped() -> None:
    batches = batches_of()
    assert len(batches) == TRAIN // 64
    rows = epoch_of()[1]["labels"][:, 0]
    assert len(rows) == TRAIN // 64 * 64
    assert len(set(rows.tolist())) == len(rows)
    assert rows.max() < TRAIN, "no row of another split"
    assert not np.array_equal(rows, np.sort(rows)), "shuffled"


def test_fewer_rows_than_a_batch_are_one_batch() -> None:
    batches = TrainingBatches(
        ROWS, np.arange(5), tokenizer=None, label_names=[], batch_size=64, seed=1, epoch=0, strokes_are_outliers=True
    )
    assert len(batches) == 1
    assert sorted(batches[0][1]["labels"][:, 0]) == [0, 1, 2, 3, 4]


def test_photos_stay_with_their_labels_unless_declared_an_outlier() -> None:
    x, y = epoch_of()
    row = y["labels"][:, 0]
    kept = (y["image_familiar"] == 1) & (row > 2)
    number = x["image"][..., 0].astype(int) * 256 + x["image"][..., 1]
    assert (number[kept] == row[kept, None, None]).all()
    outliers = y["image_familiar"] == 0  # a plain photo stays as it is when its tiles change places
    assert (number[outliers] != row[outliers, None, None]).any(axis=(1, 2)).mean() > 0.6
    assert x["image_present"][outliers].all(), "an absent photo cannot be an outlier"
    assert 0.3 * OUTLIER_SHARE < outliers.mean() < 2 * OUTLIER_SHARE


def test_the_stored_photos_are_never_changed() -> None:
    before = ROWS.photos.copy()
    epoch_of()
    assert np.array_equal(ROWS.photos, before)


def test_what_a_row_lacks_is_flagged_absent() -> None:
    x, y = epoch_of()
    row = y["labels"][:, 0]
    assert np.array_equal(x["image_present"], row % 7 != 0)
    untouched = (y["text_familiar"] == 1) & (y["text_matches"] == 1)
    assert not x["text_present"][(row % 10 == 0) & untouched].any()
    assert x["text_present"][(row % 10 != 0) & untouched].mean() > 0.95
    assert np.array_equal(x["text_present"], (x["token_ids"] != 0).any(axis=1))


def test_swapped_and_meaningless_titles_are_declared() -> None:
    many = [epoch_of(epoch=epoch) for epoch in range(4)]
    swapped = np.concatenate([1 - y["text_matches"] for _, y in many])
    gibberish = np.concatenate([1 - y["text_familiar"] for _, y in many])
    assert not (swapped * gibberish).any()
    assert 0.3 * SWAPPED_TITLE_SHARE < swapped.mean() < 2 * SWAPPED_TITLE_SHARE
    assert 0.3 * OUTLIER_SHARE < gibberish.mean() < 2 * OUTLIER_SHARE
    for x, y in many:
        row = y["labels"][:, 0]
        assert x["image_present"][y["text_matches"] == 0].all(), "a title is swapped only beside a photo"
        assert (row[y["text_familiar"] == 0] % 10 != 0).all(), "a missing title stays missing"


def test_extra_photos_stand_in_for_about_half_of_the_epochs() -> None:
    rows = made_rows(extra_of_row={i: i % 2 for i in range(COUNT)})
    x, y = epoch_of(rows=rows)
    replaced = (x["image"] == 255).all(axis=(1, 2, 3))
    assert 0.35 < replaced[y["image_familiar"] == 1].mean() < 0.65


def test_without_a_tokenizer_no_title_is_present() -> None:
    x, y = epoch_of(tokenizer=None)
    assert x["token_ids"].shape[1] == 1
    assert not x["text_present"].any()
    assert (y["text_matches"] == 1).all()


def test_equal_titles_share_a_group() -> None:
    groups = group_titles(["Puma Shoe", " puma  SHOE ", "Nike Shoe", ""])
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == 3


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 6)])
def test_resized_rows_differ_in_their_photos_alone(height: int, width: int) -> None:
    resized = ROWS.resized(height, width)
    assert resized.photos.shape == (COUNT, height, width, 3)
    assert resized.extra_photos.shape == (2, height, width, 3)
    assert np.array_equal(resized.photos[300, 0, 0], ROWS.photos[300, 0, 0])
    assert resized.titles is ROWS.titles
    assert resized.labels is ROWS.labels


def test_as_many_photos_as_asked_are_shown_on_another_ground_and_stay_familiar() -> None:
    def epoch(share: float) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        batches = TrainingBatches(
            made_rows(photo_present=np.ones(COUNT, bool)), np.arange(TRAIN), tokenizer=None, label_names=["bowl"],
            batch_size=TRAIN, seed=1, epoch=0, strokes_are_outliers=True, handheld_photo_share=share,
        )  # fmt: skip
        return batches[0]

    (plain, _), (moved, targets) = epoch(0.0), epoch(0.5)
    familiar = targets["image_familiar"] > 0
    changed = (plain["image"] != moved["image"]).any(axis=(1, 2, 3))
    assert 0.4 < changed[familiar].mean() < 0.6
    assert familiar.mean() > 1 - 2 * OUTLIER_SHARE


def test_what_was_taught_goes_with_its_row() -> None:
    taught = (np.arange(COUNT)[:, None] / 1024).astype(np.float16)
    batches = TrainingBatches(
        ROWS, np.arange(TRAIN), tokenizer=TOKENIZER, label_names=["bowl"], batch_size=64, seed=1, epoch=0,
        strokes_are_outliers=True, taught=taught,
    )  # fmt: skip
    _, y = batches[3]
    assert np.array_equal(y["taught"][:, 0] * 1024, y["labels"][:, 0])
    assert "taught" not in batches_of()[3][1]
