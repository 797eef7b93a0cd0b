"""Which titles are left out: as many of other families as it takes, as few of the items' own as it costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.answers import Answerer
from scripts.contradiction import OWN_COST, OWN_SHARE, SWAPPED_COST, damaged_items, fit_contradiction, highest_cut, lowest_cut
from tests.engine.drawn_outputs import CALIBRATION, LABELS, LEAVES, PATHS, logits_for

FAMILIES = sorted({path[1] for path in PATHS})


def test_titles_of_other_families_that_are_kept_cost_no_more_than_agreed() -> None:
    rng = np.random.default_rng(5)
    scores = np.round(rng.random(4000), 3)  # with ties
    lost = (rng.random(4000) < 0.02 + 0.3 * scores).astype(float) - (rng.random(4000) < 0.01)
    cut = highest_cut(scores, lost)
    kept = scores <= cut
    assert kept.any()
    assert lost[kept].sum() <= SWAPPED_COST * 4000
    assert lost[scores <= scores[~kept].min()].sum() > SWAPPED_COST * 4000, "the next would be too many"


def test_where_every_title_costs_an_answer_none_is_kept_and_where_none_does_all_are() -> None:
    scores = np.linspace(0, 1, 100)
    assert highest_cut(scores, np.ones(100)) < scores.min()
    assert highest_cut(np.ones(100), np.ones(100)) < 1.0
    assert highest_cut(scores, np.zeros(100)) == scores.max()


def test_leaving_titles_out_costs_the_items_no_more_than_agreed() -> None:
    rng = np.random.default_rng(5)
    scores = np.round(rng.random(4000), 3)
    lost = (rng.random(4000) < 0.2).astype(float) - (rng.random(4000) < 0.04)
    left_out = scores > lowest_cut(scores, lost)
    assert left_out.any()
    assert lost[left_out].sum() <= OWN_COST * 4000
    assert left_out.mean() <= OWN_SHARE


def test_where_it_costs_nothing_the_share_is_the_limit_and_of_few_items_none_is_risked() -> None:
    scores = np.linspace(0, 1, 1000)
    assert (scores > lowest_cut(scores, np.zeros(1000))).sum() == OWN_SHARE * 1000
    assert (scores[:100] > lowest_cut(scores[:100], np.ones(100))).sum() == 0


@pytest.mark.parametrize("cut", [highest_cut, lowest_cut])
def test_items_of_unknown_truth_do_not_thin_the_cost(cut: Callable[[NDArray[Any], NDArray[Any]], float]) -> None:
    rng = np.random.default_rng(5)
    scores, lost = rng.random(4000), (rng.random(4000) < 0.1).astype(float)
    known = rng.random(4000) < 0.3
    found = cut(scores, np.where(known, lost, np.nan))
    if cut is highest_cut:
        assert lost[known & (scores <= found)].sum() <= SWAPPED_COST * known.sum()
    else:
        assert lost[known & (scores > found)].sum() <= OWN_COST * known.sum()


def test_damaged_items_are_others_and_the_same_every_time() -> None:
    rng = np.random.default_rng(3)
    photos = rng.integers(0, 256, (40, 8, 6, 3)).astype(np.uint8)
    titles = [f"Brand {number} Blue Jeans" for number in range(40)]
    worse = damaged_items(photos, titles, labels=LEAVES, seed=1)
    again = damaged_items(photos, titles, labels=LEAVES, seed=1)
    assert (worse[0] == again[0]).all()
    assert worse[1] == again[1]
    assert worse[0].shape == photos.shape
    changed = (worse[0] != photos).any(axis=(1, 2, 3))
    assert 0.3 < changed.mean() < 0.9
    assert (np.array(worse[1]) != np.array([title.lower() for title in titles])).mean() > 0.3


class Shop:
    """Items whose photo and title name a leaf, the damaged ones in doubt. A photo holds its item's number; so does a title."""

    def __init__(self, count: int, *, families: int = len(FAMILIES)) -> None:
        known = [leaf for leaf, path in enumerate(PATHS) if FAMILIES.index(path[1]) < families]
        self.leaf = np.array(known)[np.random.default_rng(2).integers(0, len(known), count)]
        self.photos = np.zeros((count, 2, 2, 3), np.uint8)
        self.photos[:] = np.arange(count)[:, None, None, None]
        self.titles = [f"item {number}" for number in range(count)]
        answerer = Answerer(LABELS, CALIBRATION)
        self.truth = {
            name: np.array([answerer.attribute_labels[name].index(PATHS[leaf][level]) for leaf in self.leaf])
            for level, name in ((1, "subCategory"), (2, "articleType"))
        }

    def ask(self, rows: NDArray[np.int64], photos: NDArray[np.uint8], titles: list[str]) -> dict[str, NDArray[Any]]:
        number = rows.tolist()
        spoilt = (photos != self.photos[rows]).any(axis=(1, 2, 3))
        words = [title.split() for title in titles]
        named = [int(w[1]) if len(w) == 2 and w[0] == "item" and w[1].isdigit() else -1 for w in words]
        image = [logits_for(LEAVES[self.leaf[n]], share=0.5 if bad else 0.98) for n, bad in zip(number, spoilt, strict=True)]
        # Damaged titles are read as something else now and then, in doubt.
        text = [
            logits_for(LEAVES[self.leaf[name]], share=0.98)
            if 0 <= name < len(self.leaf)
            else logits_for(LEAVES[n % len(LEAVES)], share=0.6)
            for n, name in zip(number, named, strict=True)
        ]
        unit = np.eye(len(LEAVES))
        return {
            "image_logits": np.stack(image),
            "text_logits": np.stack(text),
            "fused_logits": np.stack(text),
            "image_embedding": unit[self.leaf[rows]],
            "text_embedding": unit[np.argmax(np.stack(text)[:, : len(LEAVES)], axis=1)],
            "image_in_domain": np.where(spoilt, 2.0, 6.0),
            "text_in_domain": np.where(np.array(named) < 0, 2.0, 6.0),
        }

    def as_is(self, *changed: Any) -> dict[str, NDArray[Any]]:
        """What is made of all items, or of others in their places."""
        return self.ask(np.arange(len(self.titles)), *(changed or (self.photos, self.titles)))


def fitted(shop: Shop) -> dict[str, Any] | None:
    own = shop.as_is()
    answerer = Answerer(LABELS, CALIBRATION)
    return fit_contradiction(answerer, own, shop.ask, shop.photos, shop.titles, shop.truth, seed=1)


def test_other_products_titles_are_left_out_and_damaged_ones_are_not() -> None:
    shop = Shop(250)
    rule = fitted(shop)
    assert rule is not None
    answerer = Answerer(LABELS, CALIBRATION)
    assert set(rule["overlap"]) == set(rule["sureness"]) == set(answerer.attributes)
    answerer = Answerer(LABELS, {**CALIBRATION, "agreement": {**CALIBRATION["agreement"], "contradiction": rule}})
    other = np.random.default_rng(9).permutation(250)
    differs = shop.truth["subCategory"] != shop.truth["subCategory"][other]
    swapped = shop.as_is(shop.photos, [shop.titles[row] for row in other])
    assert answerer.leaves_title_out(swapped)[differs].mean() > 0.99
    assert answerer.leaves_title_out(shop.as_is()).mean() <= OWN_SHARE
    damaged = shop.as_is(*damaged_items(shop.photos, shop.titles, labels=LEAVES, seed=77))
    assert answerer.leaves_title_out(damaged).mean() < 0.05


@pytest.mark.parametrize("shop", [Shop(60), Shop(250, families=1)])
def test_too_few_titles_of_other_families_give_no_rule(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.contradiction.MIN_SWAPPED", 60)
    assert fitted(shop) is None


def test_where_nothing_tells_other_titles_from_the_items_own_there_is_no_rule() -> None:
    shop = Shop(250)

    def ask(rows: NDArray[np.int64], photos: NDArray[np.uint8], titles: list[str]) -> dict[str, NDArray[Any]]:
        found, other = shop.ask(rows, photos, titles), np.random.default_rng(len(titles[0])).permutation(len(titles))
        return {name: value[other] if name.startswith("text_") else value for name, value in found.items()}

    own = ask(np.arange(250), shop.photos, shop.titles)
    assert fit_contradiction(Answerer(LABELS, CALIBRATION), own, ask, shop.photos, shop.titles, shop.truth, seed=1) is None
