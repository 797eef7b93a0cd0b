"""What calibration promises holds on fresh data; where it cannot promise, it does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.answers import Answerer, LabelLayout
from app.engine.bundle_schema import Calibration
from app.engine.text import TitleTokenizer
from scripts.batches import Rows, group_titles
from scripts.calibrate import accept_thresholds, calibrate, familiarity_limit, fit_temperature, pattern_of
from scripts.labels import LabelSpace, build_label_space

# ---- thresholds


def answered(rng: np.random.Generator, rows: int, *, decimals: int | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Confidences that overstate: an answer that claims c is right with probability c ** 1.3."""
    confidence = rng.beta(6, 0.5, rows)
    right = rng.random(rows) < confidence**1.3
    return (confidence if decimals is None else np.round(confidence, decimals)), right


@pytest.mark.parametrize("decimals", [None, 1])
def test_accepted_answers_keep_the_promised_precision_on_fresh_data(
    decimals: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.calibrate.PRECISIONS", (0.95,))
    rng = np.random.default_rng(11)
    fresh_confidence, fresh_right = answered(rng, 100_000, decimals=decimals)
    simulations, shown, broken = 200, 0, 0
    for _ in range(simulations):
        for precision, threshold in accept_thresholds(*answered(rng, 800, decimals=decimals)):
            shown += 1
            broken += bool(fresh_right[fresh_confidence >= threshold].mean() < precision)
    assert shown >= simulations * 0.3, "the simulation must be able to show something"
    assert broken <= 0.05 * simulations


def test_the_worst_case_breaks_the_promise_in_five_percent_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are right just less often than asked, however sure they are."""
    monkeypatch.setattr("scripts.calibrate.PRECISIONS", (0.95,))
    rng = np.random.default_rng(12)
    broken = sum(bool(accept_thresholds(rng.random(400), rng.random(400) < 0.949)) for _ in range(400))
    assert broken <= 0.05 * 400


def test_thresholds_rise_with_the_precision() -> None:
    pairs = accept_thresholds(*answered(np.random.default_rng(1), 5000))
    precisions, confidences = zip(*pairs, strict=True)
    assert list(precisions) == sorted(precisions)
    assert list(confidences) == sorted(confidences)
    assert len(pairs) >= 5


@pytest.mark.parametrize(("rows", "reached"), [(0, None), (4, None), (5, 0.5), (28, 0.85), (29, 0.9), (149, 0.98), (148, 0.95)])
def test_few_rows_show_only_as_much_as_they_can(rows: int, reached: float | None) -> None:
    pairs = accept_thresholds(np.linspace(0.7, 0.9, rows), np.ones(rows, bool))
    assert (pairs[-1][0] if pairs else None) == reached


def test_wrong_labels_among_the_surest_do_not_end_the_search() -> None:
    """Two in the first two hundred are no sign that a model is wrong twice as often as it may be; the next 1,800 show it."""
    confidence, right = np.linspace(0.999, 0.6, 2000), np.ones(2000, bool)
    right[[40, 90, 150, 200, 230]] = False
    pairs = accept_thresholds(confidence, right)
    assert [least for precision, least in pairs if precision == 0.98] == [pytest.approx(0.6, abs=1e-5)]
    assert 0.999 not in [precision for precision, _ in pairs]


def test_what_only_the_surest_show_is_found_too() -> None:
    rng = np.random.default_rng(3)
    confidence = np.linspace(0.999, 0.2, 2000)
    right = np.where(np.arange(2000) < 500, True, rng.random(2000) < 0.5)
    (threshold,) = [least for precision, least in accept_thresholds(confidence, right) if precision == 0.98]
    assert 0.75 < threshold < 0.85


def test_answers_that_are_wrong_are_never_accepted() -> None:
    rng = np.random.default_rng(2)
    assert accept_thresholds(rng.random(3000), np.zeros(3000, bool)) == []


def test_answers_of_one_confidence_stand_or_fall_together() -> None:
    """Serving cannot tell them apart, so neither may the threshold."""
    right = np.array([True] * 300 + [False] * 300)
    assert accept_thresholds(np.full(600, 0.9), right) == []


def test_answers_too_sure_to_tell_apart_are_accepted() -> None:
    confidence = 1 - np.geomspace(1e-12, 1e-7, 4000)
    pairs = accept_thresholds(confidence, np.ones(4000, bool))
    assert pairs[-1][0] == 0.999
    assert (confidence >= pairs[-1][1]).all()


# ---- temperature

FLAT = LabelLayout(
    {
        "attributes": ["a"],
        "heads": [{"kind": "flat", "attribute": "a", "offset": 0, "size": 4, "labels": ["w", "x", "y", "z"]}],
    }
)
TREE = LabelLayout(
    {
        "attributes": ["leaf", "top"],
        "heads": [
            {
                "kind": "hierarchy",
                "offset": 0,
                "size": 4,
                "levels": ["top", "leaf"],
                "paths": [["A", "w"], ["A", "x"], ["B", "y"], ["B", "z"]],
            }
        ],
    }
)


def drawn_targets(rng: np.random.Generator, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and targets drawn from their own softmax: perfectly calibrated at temperature 1."""
    logits = rng.normal(0, 2, (rows, 4)).astype(np.float32)
    target = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, target


@pytest.mark.parametrize("distortion", [0.5, 1.0, 2.5])
def test_the_temperature_undoes_a_known_distortion(distortion: float) -> None:
    logits, target = drawn_targets(np.random.default_rng(4), 6000)
    assert fit_temperature(FLAT, logits * distortion, "a", target) == pytest.approx(distortion, rel=0.08)
    assert fit_temperature(TREE, logits * distortion, "top", target // 2) == pytest.approx(distortion, rel=0.12)


def test_a_handful_of_rows_hardly_moves_the_temperature() -> None:
    logits, _ = drawn_targets(np.random.default_rng(4), 3)
    assert 0.4 < fit_temperature(FLAT, logits, "a", logits.argmax(axis=1)) < 1.2


# ---- the unfamiliar


def test_the_familiarity_limit_lets_few_validation_rows_abstain() -> None:
    logits = np.random.default_rng(6).normal(3, 1, 2000)
    limit = familiarity_limit(logits)
    assert limit is not None
    assert 0 < (logits < limit).mean() <= 0.01
    assert familiarity_limit(logits[:10]) is None


# ---- all of it

SHAPES, COLOURS = ("circle", "square", "star"), ("blue", "red")


class KnownNetwork:
    """Says what the made rows show, with some doubt and a few errors: photo pixel 0 is the shape, 1 the colour."""

    def __init__(self, tokenizer: TitleTokenizer, titles: list[str]) -> None:
        self._known = {tuple(tokenizer.encode(title)): title.split() for title in titles}

    def predict(self, x: dict[str, NDArray[Any]], batch_size: int, verbose: int) -> dict[str, NDArray[Any]]:
        rows = len(x["image"])
        rng = np.random.default_rng(rows)
        logits = {side: rng.normal(0, 1, (rows, 5)) for side in ("fused", "image", "text")}
        embeddings = np.zeros((2, rows, 6))
        for row in range(rows):
            pixel = x["image"][row, 0, 0]
            words = self._known.get(tuple(x["token_ids"][row]), ["", ""])
            shapes = (int(pixel[0]), SHAPES.index(words[1]) if words[1] else 0)
            colours = (int(pixel[1]), COLOURS.index(words[0]) if words[0] else 0)
            for side, shape, colour in zip(("image", "text"), shapes, colours, strict=True):
                logits[side][row, shape] += 5
                logits[side][row, 3 + colour] += 5
                embeddings[0 if side == "image" else 1, row, shape * 2 + colour] = 1
        logits["fused"] = logits["image"] + logits["text"]
        return {
            **{f"{side}_logits": value.astype(np.float32) for side, value in logits.items()},
            "image_embedding": embeddings[0],
            "text_embedding": embeddings[1],
            "fused_embedding": embeddings[0],
            "image_in_domain": rng.normal(4, 1, rows),
            "text_in_domain": rng.normal(4, 1, rows),
        }


def made_rows(count: int) -> tuple[Rows, LabelSpace, TitleTokenizer, KnownNetwork]:
    rng = np.random.default_rng(8)
    shape, colour = rng.integers(0, 3, count), rng.integers(0, 2, count)
    photos = np.zeros((count, 2, 2, 3), np.uint8)
    photos[:, 0, 0, 0], photos[:, 0, 0, 1] = shape, colour
    titles = [f"{COLOURS[c]} {SHAPES[s]}" for s, c in zip(shape, colour, strict=True)]
    table = {"shape": [SHAPES[s] for s in shape], "colour": [COLOURS[c] for c in colour]}
    space = build_label_space(table, range(count), label_columns=("shape", "colour"))
    tokenizer = TitleTokenizer.train(titles, vocabulary_size=300, max_tokens=6)
    rows = Rows(
        photos=photos,
        photo_present=np.ones(count, bool),
        extra_photos=np.zeros((0, 2, 2, 3), np.uint8),
        extra_of_row={},
        titles=titles,
        labels=space.encode(table, count),
        title_group=group_titles(titles),
    )
    return rows, space, tokenizer, KnownNetwork(tokenizer, sorted(set(titles)))


def test_a_whole_calibration_accepts_the_sure_and_tells_matching_titles_from_others() -> None:
    rows, space, tokenizer, network = made_rows(400)
    found = calibrate(network, rows, np.arange(400), tokenizer=tokenizer, space=space, applies={}, seed=1)
    Calibration.model_validate_json(json.dumps(found))
    answerer = Answerer(space.to_json({}), found)
    x: dict[str, NDArray[Any]] = {"image": rows.photos, "token_ids": tokenizer.encode_many(rows.titles)}
    outputs = network.predict(x, 64, 0)
    swapped = outputs | {name: np.roll(value, 1, axis=0) for name, value in outputs.items() if name.startswith("text_")}
    different = np.array([title != rows.titles[i - 1] for i, title in enumerate(rows.titles)])

    def classified(outputs: dict[str, NDArray[Any]], row: int) -> Any:
        item = {name: value[row] for name, value in outputs.items()}
        return answerer.classify(
            item, image_present=True, text_present=True, attributes=answerer.attributes, top_k=1, precision=0.95
        )

    matching = [classified(outputs, row) for row in range(400)]
    others = [classified(swapped, row) for row in np.flatnonzero(different).tolist()]
    decisions = [answer.attributes["shape"].decision for answer in matching]
    assert decisions.count("accept") > 350
    assert decisions.count("abstain") <= 0.02 * 400
    assert np.mean([answer.agreement.score > 0.5 for answer in matching]) > 0.95
    assert np.mean([answer.agreement.score < 0.5 for answer in others]) > 0.9
    assert np.mean([bool(answer.agreement.conflicts) for answer in matching]) <= 0.05
    assert np.mean([bool(answer.agreement.conflicts) for answer in others]) > 0.5
    assert np.mean([answer.inputs == ("image",) for answer in matching]) <= 0.02
    other_shape = [
        answer
        for row, answer in zip(np.flatnonzero(different).tolist(), others, strict=True)
        if rows.titles[row].split()[1] != rows.titles[row - 1].split()[1]
    ]
    assert np.mean([answer.inputs == ("image",) for answer in other_shape]) > 0.9


@pytest.mark.parametrize("count", [0, 1, 3])
def test_with_too_few_validation_rows_everything_is_for_review(count: int) -> None:
    rows, space, tokenizer, network = made_rows(100)
    found = calibrate(network, rows, np.arange(count), tokenizer=tokenizer, space=space, applies={}, seed=1)
    Calibration.model_validate_json(json.dumps(found))
    answerer = Answerer(space.to_json({}), found)
    outputs = network.predict({"image": rows.photos, "token_ids": tokenizer.encode_many(rows.titles)}, 64, 0)
    for row in range(100):
        answer = answerer.classify(
            {name: value[row] for name, value in outputs.items()},
            image_present=True,
            text_present=True,
            attributes=answerer.attributes,
            top_k=1,
            precision=0.5,
        )
        assert {found.decision for found in answer.attributes.values()} == {"review"}
        assert answer.agreement is None


def test_a_model_without_titles_is_calibrated_for_photos_alone() -> None:
    rows, space, _, network = made_rows(300)
    found = calibrate(network, rows, np.arange(300), tokenizer=None, space=space, applies={}, seed=1)
    assert set(found["patterns"]) == {"image"}
    assert set(found["in_domain"]) == {"image"}
    assert found["agreement"] is None


def test_rows_without_a_label_are_left_out() -> None:
    rows, space, tokenizer, network = made_rows(300)
    rows.labels[:, space.columns.index("colour")] = -1
    found = calibrate(network, rows, np.arange(300), tokenizer=tokenizer, space=space, applies={}, seed=1)
    assert "colour" not in found["patterns"]["both"]["thresholds"]
    assert found["patterns"]["both"]["temperature"]["colour"] == 1.0
    assert "colour" not in found["agreement"]["features"]


def test_the_pattern_follows_from_what_an_item_has() -> None:
    assert [pattern_of(True, True), pattern_of(True, False), pattern_of(False, True)] == ["both", "image", "text"]
