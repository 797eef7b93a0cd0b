"""The phone simulation keeps the product and changes what is around it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scripts.evaluation.phone import phone_photo, phone_photos, product_mask


def product(colour: int = 20) -> NDArray[np.uint8]:
    """A dark square with a white core on white."""
    photo = np.full((80, 60, 3), 255, np.uint8)
    photo[20:60, 10:50] = colour
    photo[35:45, 25:35] = 255
    return photo


def test_the_ground_is_what_is_connected_to_the_border() -> None:
    mask = product_mask(product())
    assert mask[20:60, 10:50].all(), "the white core belongs to the product"
    assert not mask[:20].any()
    assert mask.sum() == 40 * 40


def test_a_photo_that_is_all_ground_counts_as_product() -> None:
    assert product_mask(np.full((8, 8, 3), 255, np.uint8)).all()


def test_the_product_stays_and_the_ground_is_busy() -> None:
    seen = phone_photo(product(), seed=1)
    assert seen.shape == (80, 60, 3)
    assert seen[28:32, 25:35].mean() < 70, "the product is still dark"
    corners = np.concatenate([seen[:10, :10], seen[-10:, -10:]])
    assert corners.mean() < 235
    assert corners.std() > 3


def test_a_seed_gives_the_same_picture_and_another_one_another() -> None:
    assert (phone_photo(product(), 3) == phone_photo(product(), 3)).all()
    assert (phone_photo(product(), 3) != phone_photo(product(), 4)).any()


def test_absent_photos_stay_blank() -> None:
    photos = np.stack([product(), np.zeros((80, 60, 3), np.uint8)])
    seen = phone_photos(photos, np.array([True, False]), seed=1)
    assert (seen[0] == phone_photo(product(), 1)).all()
    assert not seen[1].any()
