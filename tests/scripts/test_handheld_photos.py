"""A product on another ground is still the product, and nothing but the ground was cut away."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.handheld_photos import Photo, handheld_photo, plain_ground


def shown(colour: tuple[int, int, int] = (200, 30, 40)) -> Photo:
    """A ring of one colour in the middle of a white ground."""
    y, x = np.mgrid[0:80, 0:60]
    distance = np.hypot((y - 40) / 1.3, x - 30)
    photo = np.full((80, 60, 3), 250, np.uint8)
    photo[(distance < 22) & (distance > 8)] = colour
    return photo


def test_the_ground_is_what_the_border_shows_and_the_border_reaches() -> None:
    photo = shown()
    ground = plain_ground(photo)
    product = (photo == (200, 30, 40)).all(axis=2)
    assert not ground[product].any()
    assert ground[[0, -1]].all()
    assert ground[:, [0, -1]].all()
    assert not ground[40, 30], "the inside of a ring is reached from no side"


@pytest.mark.parametrize("photo", [np.full((80, 60, 3), 255, np.uint8), shown((249, 250, 251))], ids=["empty", "white"])
def test_a_photo_that_is_all_ground_is_left_whole(photo: Photo) -> None:
    assert not plain_ground(photo).any()


def test_the_product_stays_and_the_ground_changes() -> None:
    photo, rng = shown(), np.random.default_rng(1)
    corners, middles = [], []
    for _ in range(40):
        result = handheld_photo(rng, photo)
        assert result.shape == photo.shape
        assert result.dtype == np.uint8
        redness = result[..., 0].astype(int) - result[..., 1:].max(axis=2)
        middles.append((redness > 60).mean())
        corners.append(result[0, 0].astype(int))
    product = (photo == (200, 30, 40)).all(axis=2).mean()
    assert np.median(middles) > 0.3 * product, "at 0.65 of the side and softened, a good part of it is still red"
    assert np.std(corners, axis=0).min() > 20
    assert np.array_equal(photo, shown()), "the stored photo is never changed"


def test_it_follows_from_the_generator() -> None:
    one, two = (handheld_photo(np.random.default_rng(4), shown()) for _ in range(2))
    assert np.array_equal(one, two)
