"""Made outliers are well-formed, varied and repeatable."""

from __future__ import annotations

import random

import numpy as np
import pytest

from app.engine.text import clean_title
from scripts.outliers import outlier_photo, outlier_title, strange_thing


@pytest.mark.parametrize(("height", "width"), [(80, 60), (16, 16), (8, 8), (28, 28)])
@pytest.mark.parametrize("strokes", [True, False])
def test_outlier_photos_have_the_asked_size_and_never_repeat(height: int, width: int, strokes: bool) -> None:
    rng = np.random.default_rng(1)
    familiar = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = familiar.copy()
    photos = [outlier_photo(rng, height, width, familiar, strokes=strokes) for _ in range(60)]
    assert {(photo.shape, photo.dtype.name) for photo in photos} == {((height, width, 3), "uint8")}
    assert not any(np.array_equal(photo, familiar) for photo in photos)
    assert np.array_equal(familiar, before), "the real photo is left alone"
    assert len({photo.tobytes() for photo in photos}) > 40


def test_outliers_follow_from_the_seed() -> None:
    familiar = np.zeros((16, 16, 3), np.uint8)
    one, two = (
        [outlier_photo(np.random.default_rng(3), 16, 16, familiar, strokes=True).tobytes() for _ in range(10)] for _ in range(2)
    )
    assert one == two
    one_title, two_title = ([outlier_title(random.Random(seed), ["shirt"]) for seed in range(30)] for _ in range(2))
    assert one_title == two_title


@pytest.mark.parametrize(("height", "width"), [(80, 60), (16, 16), (8, 8)])
def test_strange_things_lie_on_a_ground_and_never_repeat(height: int, width: int) -> None:
    familiar = np.zeros((height, width, 3), np.uint8)
    things = [strange_thing(np.random.default_rng([5, number]), height, width, familiar) for number in range(60)]
    assert {(thing.shape, thing.dtype.name) for thing in things} == {((height, width, 3), "uint8")}
    assert len({thing.tobytes() for thing in things}) == 60
    assert things[7].tobytes() == strange_thing(np.random.default_rng([5, 7]), height, width, familiar).tobytes()
    plain = [thing for thing in things if np.ptp(thing[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int), axis=0).max() < 40]
    assert 10 < len(plain) < 50, "some on a plain ground, some on a made one"
    assert all(thing.astype(int).std() > 2 for thing in things), "and something lies on it"


def test_a_model_of_handwriting_is_shown_no_line_drawings() -> None:
    """Negatives and strokes look like digits; without them no outlier of a dark photo is nearly black or nearly white."""
    rng = np.random.default_rng(4)
    black = np.zeros((28, 28, 3), np.uint8)
    drawn = [outlier_photo(rng, 28, 28, black, strokes=False) for _ in range(150)]
    assert not any((photo == 255).all() for photo in drawn)
    negatives = [outlier_photo(rng, 28, 28, black, strokes=True) for _ in range(150)]
    assert any((photo == 255).all() for photo in negatives)


def test_outlier_titles_are_text_without_known_words() -> None:
    rng = random.Random(5)
    vocabulary = ["trousers", "sneakers", "handbag", "necklace"]
    titles = [outlier_title(rng, vocabulary) for _ in range(300)]
    assert sum(bool(clean_title(title)) for title in titles) > 290
    assert len(set(titles)) > 290
    words = [word for title in titles for word in title.split()]
    assert sum(word in vocabulary for word in words) < 0.01 * len(words)


def test_outlier_titles_need_no_vocabulary() -> None:
    rng = random.Random(6)
    assert all(isinstance(outlier_title(rng, []), str) for _ in range(60))
