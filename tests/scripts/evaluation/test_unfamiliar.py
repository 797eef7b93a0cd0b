"""The unfamiliar is made, seeded, and is not what training is shown."""

from __future__ import annotations

import numpy as np

from scripts.evaluation.misleading_titles import chinese_titles
from scripts.evaluation.unfamiliar import drawn_photos, gibberish_titles, noise_photos, titles_of_other_trades


def test_every_kind_of_picture_is_drawn_and_varies() -> None:
    drawn = drawn_photos(3, 32, 24, seed=1)
    assert len(drawn) >= 5
    for kind, photos in drawn.items():
        assert photos.shape == (3, 32, 24, 3), kind
        assert photos.dtype == np.uint8, kind
        assert photos.std() > 5, kind
        assert (photos[0] != photos[1]).any(), kind
    again = drawn_photos(3, 32, 24, seed=1)
    assert all((drawn[kind] == again[kind]).all() for kind in drawn)


def test_titles_and_noise_are_the_same_for_the_same_seed() -> None:
    for make in (gibberish_titles, titles_of_other_trades, chinese_titles):
        assert make(5, 1) == make(5, 1)
        assert make(5, 1) != make(5, 2)
        assert all(make(5, 1))
    assert (noise_photos(2, 4, 4, 1) == noise_photos(2, 4, 4, 1)).all()
    assert all(not title.isascii() for title in chinese_titles(5, 1))
