"""Changed photos still show the same thing in the same hue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.image_augmentation import ImageAugmentation, PhotoMixing


def augmented(kind: Any, photos: NDArray[np.uint8], *, seed: int = 1) -> NDArray[np.float32]:
    return np.asarray(ImageAugmentation(kind, seed=seed)(photos.astype(np.float32)), np.float32)


def arrows(count: int) -> NDArray[np.uint8]:
    """Dark on the left, bright on the right: mirrored is the other way round."""
    ramp = np.linspace(60, 200, 24).astype(np.uint8)
    return np.broadcast_to(ramp[None, None, :, None], (count, 32, 24, 3)).copy()


def test_none_leaves_photos_alone() -> None:
    photos = arrows(4)
    assert np.array_equal(augmented("none", photos), photos)


@pytest.mark.parametrize("kind", ["digits", "products"])
def test_photos_change_keep_their_shape_and_stay_in_range(kind: str) -> None:
    photos = np.random.default_rng(1).integers(0, 256, (16, 32, 24, 3), dtype=np.uint8)
    changed = augmented(kind, photos)
    assert changed.shape == photos.shape
    assert changed.min() >= -1e-3
    assert changed.max() <= 255 + 1e-3
    assert all(np.abs(a - b).mean() > 1 for a, b in zip(changed, photos, strict=True))


@pytest.mark.parametrize("kind", ["digits", "products"])
def test_each_photo_and_each_call_changes_differently(kind: str) -> None:
    layer = ImageAugmentation(kind, seed=1)  # type: ignore[arg-type]
    photos = arrows(8).astype(np.float32)
    first, second = np.asarray(layer(photos)), np.asarray(layer(photos))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert np.array_equal(first, augmented(kind, arrows(8))), "the seed decides"


def test_digits_are_never_mirrored_and_products_half_the_time() -> None:
    def mirrored(kind: str) -> float:
        changed = augmented(kind, arrows(200))[:, 8:24]
        return float((changed[:, :, 2:8].mean(axis=(1, 2, 3)) > changed[:, :, 16:22].mean(axis=(1, 2, 3))).mean())

    assert mirrored("digits") == 0.0
    assert 0.35 < mirrored("products") < 0.65


def test_hue_is_never_touched() -> None:
    """Grey stays grey and red stays red, except where a box was erased."""
    grey = np.full((100, 16, 16, 3), 120, np.uint8)
    changed = augmented("products", grey)
    colourless = np.abs(changed - changed.mean(axis=-1, keepdims=True)).max(axis=(1, 2, 3)) < 0.5
    assert colourless.mean() > 0.6
    red = np.zeros((100, 16, 16, 3), np.uint8)
    red[:] = (200, 30, 40)
    changed = augmented("products", red)
    still_red = (changed[..., 0] > changed[..., 1] + 80) & (changed[..., 0] > changed[..., 2] + 80)
    assert np.median(still_red.mean(axis=(1, 2))) == 1.0
    assert still_red.mean() > 0.9


# ---- mixing


def plain(count: int) -> NDArray[np.float32]:
    """Photos of one brightness each, 0 and 100 by turns: what is mixed in can be read off."""
    photos = np.zeros((count, 20, 16, 3), np.float32)
    photos[1::2] = 100
    return photos


def mixed(share: float, photos: NDArray[np.float32], present: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    image, own = PhotoMixing(share, seed=3)(photos, present)
    return np.asarray(image), np.asarray(own)


def test_a_mixed_photo_holds_as_much_of_the_one_before_as_its_share_says() -> None:
    photos = plain(200)
    image, own = mixed(1.0, photos, np.ones(200, bool))
    expected = photos.mean(axis=(1, 2, 3)) * own + np.roll(photos, 1, axis=0).mean(axis=(1, 2, 3)) * (1 - own)
    assert image.mean(axis=(1, 2, 3)) == pytest.approx(expected, abs=0.01)
    assert own.min() >= 0.45, "a photo stays mostly its own item's (a box is cut at whole pixels)"
    assert 0.65 < own.mean() < 0.85
    blended = np.array([len(np.unique(photo.round(3))) == 1 for photo in image])
    assert 0.35 < blended.mean() < 0.65, "half are blended, half have a box pasted in"


def test_only_the_chosen_share_of_photos_is_mixed() -> None:
    image, own = mixed(0.3, plain(400), np.ones(400, bool))
    assert 0.2 < (own < 1).mean() < 0.4
    assert np.array_equal(image[own == 1], plain(400)[own == 1])
    untouched, all_own = mixed(0.0, plain(8), np.ones(8, bool))
    assert np.array_equal(untouched, plain(8))
    assert (all_own == 1).all()


def test_mixing_can_be_switched_off_between_epochs() -> None:
    layer = PhotoMixing(1.0, seed=3)
    layer.active.assign(0.0)
    image, own = layer(plain(40), np.ones(40, bool))
    assert np.array_equal(np.asarray(image), plain(40))
    assert (np.asarray(own) == 1).all()
    layer.active.assign(1.0)
    assert (np.asarray(layer(plain(40), np.ones(40, bool))[1]) < 1).any()


def test_a_missing_photo_is_neither_mixed_nor_mixed_in() -> None:
    present = np.arange(40) % 4 != 0
    _, own = mixed(1.0, plain(40), present)
    assert (own[~present] == 1).all()
    assert (own[np.roll(~present, 1)] == 1).all()
    assert (own[present & np.roll(present, 1)] < 1).any()
