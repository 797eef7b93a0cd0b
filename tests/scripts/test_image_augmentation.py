"""Changed photos still show the same thing in the same hue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.image_augmentation import ImageAugmentation


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
