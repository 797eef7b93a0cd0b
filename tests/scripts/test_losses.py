"""The loss asks for the right answer, and for nothing where there is nothing to know."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.config import NetworkConfig, TrainingConfig
from scripts.labels import LabelSpace, build_label_space
from scripts.losses import (
    COARSE_WEIGHT,
    FLAT_WEIGHT,
    HIERARCHY_WEIGHT,
    IN_DOMAIN_WEIGHT,
    PATTERN_WEIGHT,
    TAUGHT_SHARE,
    Recogniser,
)

ROWS, EMBEDDING = 4, 6
TABLE = {
    "top": ["A", "A", "B", "B"],
    "leaf": ["w", "x", "y", "z"],
    "colour": ["red", "blue", "red", "blue"],
    "brand": ["p", "q", "p", "q"],
}
SPACE: LabelSpace = build_label_space(
    TABLE, range(ROWS), label_columns=("top", "leaf", "colour"), auxiliary_columns=("brand",), hierarchy=("top", "leaf")
)
PATTERN_SUM = sum(PATTERN_WEIGHT.values())


def recogniser(**changes: Any) -> Recogniser:
    network: dict[str, Any] = {"max_tokens": 4, "embedding_width": EMBEDDING, "dimensions": (3, EMBEDDING)} | {
        key: changes.pop(key) for key in list(changes) if key in ("max_tokens", "image_height", "image_width")
    }
    options = {key: changes.pop(key) for key in ("teachers", "taught_share") if key in changes}
    training: dict[str, Any] = {"label_smoothing": 0.0, "contrastive_weight": 0.0, "image_augmentation": "none"} | changes
    empty = keras.Sequential([keras.Input((1,))])
    return Recogniser(empty, SPACE, NetworkConfig(**network), TrainingConfig(**training), **options)


def given() -> dict[str, NDArray[Any]]:
    return {"image_present": np.ones(ROWS, bool), "text_present": np.ones(ROWS, bool)}


def targets(**changes: Any) -> dict[str, NDArray[Any]]:
    ones = np.ones(ROWS, np.float32)
    values = {
        "labels": SPACE.encode(TABLE, ROWS),
        "image_familiar": ones,
        "text_familiar": ones,
        "text_matches": ones,
        "title_group": np.arange(ROWS, dtype=np.int32),
    }
    return values | changes


def outputs(sure: float = 0.0, **changes: Any) -> dict[str, NDArray[Any]]:
    """Outputs that name every label with `sure` logits above the rest; embeddings that pair up row by row."""
    logits = np.zeros((ROWS, SPACE.logits_width), np.float32)
    for head, column in ((SPACE.heads[0], "leaf"), (SPACE.heads[1], "colour"), (SPACE.heads[2], "brand")):
        for row in range(ROWS):
            finest = [path[-1] for path in head.paths].index(TABLE[column][row])
            logits[row, head.offset + finest] = sure
    unit = np.eye(ROWS, EMBEDDING, dtype=np.float32)
    values: dict[str, NDArray[Any]] = {f"{pattern}_logits": logits for pattern in PATTERN_WEIGHT}
    values |= {f"{pattern}_embedding": unit for pattern in PATTERN_WEIGHT}
    values |= {f"{branch}_in_domain": np.full(ROWS, 50, np.float32) for branch in ("image", "text")}
    return values | changes


def loss(model: Recogniser, x: dict[str, Any], y: dict[str, Any], predicted: dict[str, Any]) -> float:
    return float(model.compute_loss(x=x, y=y, y_pred=predicted))


def test_right_and_sure_answers_cost_nothing_and_wrong_ones_much() -> None:
    model = recogniser()
    unsure = loss(model, given(), targets(), outputs(0.0))
    assert loss(model, given(), targets(), outputs(30.0)) == pytest.approx(0.0, abs=1e-4)
    assert loss(model, given(), targets(), outputs(-30.0)) > 3 * unsure


def test_unsure_answers_cost_the_logarithm_of_the_choices() -> None:
    only_known = SPACE.encode(TABLE | {"brand": [""] * ROWS}, ROWS)
    expected = PATTERN_SUM * (HIERARCHY_WEIGHT * (np.log(4) + COARSE_WEIGHT * np.log(2)) + FLAT_WEIGHT * np.log(2))
    assert loss(recogniser(), given(), targets(labels=only_known), outputs(0.0)) == pytest.approx(expected, rel=1e-4)


def test_labels_are_smoothed_as_the_run_says_or_the_caller() -> None:
    model, labels, everybody = recogniser(label_smoothing=0.2), targets()["labels"], np.ones(ROWS, np.float32)
    sure = outputs(30.0)["image_logits"]
    smoothed = float(model.label_loss(sure, labels, everybody))
    assert smoothed > 3.0, "being this sure costs what smoothing says of the other labels"
    assert float(model.label_loss(sure, labels, everybody, smoothing=0.2)) == pytest.approx(smoothed)
    assert float(model.label_loss(sure, labels, everybody, smoothing=0.0)) == pytest.approx(0.0, abs=1e-4)


def test_an_unknown_label_counts_for_nothing() -> None:
    nothing = np.full((ROWS, len(SPACE.columns)), -1, np.int32)
    for sure in (0.0, -30.0):
        assert loss(recogniser(), given(), targets(labels=nothing), outputs(sure)) == pytest.approx(0.0, abs=1e-6)


def test_a_coarse_label_is_scored_on_the_sum_of_its_paths() -> None:
    coarse = SPACE.encode(TABLE | {"leaf": [""] * ROWS, "colour": [""] * ROWS, "brand": [""] * ROWS}, ROWS)
    predicted = outputs(0.0)
    assert loss(recogniser(), given(), targets(labels=coarse), predicted) == pytest.approx(PATTERN_SUM * np.log(2), rel=1e-3)
    # Either leaf of the right parent will do.
    sibling = np.zeros((ROWS, SPACE.logits_width), np.float32)
    sibling[[0, 1], 0], sibling[[2, 3], 2] = 30, 30
    predicted |= {f"{pattern}_logits": sibling for pattern in PATTERN_WEIGHT}
    assert loss(recogniser(), given(), targets(labels=coarse), predicted) == pytest.approx(0.0, abs=1e-3)


def test_the_wrong_parent_costs_more_than_the_wrong_child() -> None:
    def guess(leaf: dict[str, str]) -> dict[str, Any]:
        logits = outputs(0.0)["fused_logits"].copy()
        names = [path[-1] for path in SPACE.heads[0].paths]
        for row, truth in enumerate(TABLE["leaf"]):
            logits[row, SPACE.heads[0].offset + names.index(leaf[truth])] = 10
        return outputs(0.0) | {f"{pattern}_logits": logits for pattern in PATTERN_WEIGHT}

    sibling = guess({"w": "x", "x": "w", "y": "z", "z": "y"})
    stranger = guess({"w": "y", "x": "z", "y": "w", "z": "x"})
    assert loss(recogniser(), given(), targets(), stranger) > loss(recogniser(), given(), targets(), sibling) + 1


def test_a_mixed_photo_is_asked_for_both_items_in_their_shares() -> None:
    own = np.full(ROWS, 0.75, np.float32)
    alone = given() | {"text_present": np.zeros(ROWS, bool)}
    image = outputs(6.0)["image_logits"]
    before = outputs(0.0) | {"image_logits": np.roll(image, 1, axis=0), "own_share": own}
    right = outputs(0.0) | {"image_logits": image, "own_share": own}
    both = outputs(0.0) | {"image_logits": image + 0.85 * np.roll(image, 1, axis=0), "own_share": own}
    model = recogniser(mixed_photo_share=0.5)
    costs = [loss(model, alone, targets(), predicted) for predicted in (both, right, before)]
    assert costs == sorted(costs), "naming both is best, then the larger part, then the smaller"
    unmixed = right | {"own_share": np.ones(ROWS, np.float32)}
    assert loss(model, alone, targets(), unmixed) == pytest.approx(
        loss(recogniser(), alone, targets(), outputs(0.0) | {"image_logits": image})
    )


def test_where_teachers_answer_the_photo_is_asked_for_their_answer_too() -> None:
    model = recogniser()
    taught = np.zeros((ROWS, SPACE.published_width), np.float32)
    labels = targets()["labels"]
    for head in SPACE.heads[:2]:
        for row in range(ROWS):  # the teachers are sure of the very label
            finest = [path[-1] for path in head.paths].index(TABLE[head.levels[-1]][row])
            taught[row, head.offset + finest] = 1.0
    agreeing = float(model.compute_loss(given(), targets(taught=taught), outputs(sure=30.0)))
    assert agreeing == pytest.approx(0.0, abs=1e-3)
    doubting = float(model.compute_loss(given(), targets(taught=np.roll(taught, 1, axis=0)), outputs(sure=30.0)))
    # 30 for each head, by the teachers' share, in the photo's part of the loss alone.
    assert doubting == pytest.approx(30 * TAUGHT_SHARE * PATTERN_WEIGHT["image"] * (HIERARCHY_WEIGHT + FLAT_WEIGHT), rel=0.01)
    nobody = targets(taught=np.roll(taught, 1, axis=0), labels=np.full_like(labels, -1))
    assert float(model.compute_loss(given(), nobody, outputs(sure=30.0))) < 1e-9, "an attribute without a label stays out"


class FixedTeacher(keras.Model):  # type: ignore[misc]
    """Says the same of every photo: `sure` logits for each item's label as rolled by `shift`."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.answer = self.add_weight(shape=(ROWS, SPACE.logits_width), initializer="zeros")
        self.answer.assign(np.roll(outputs(30.0)["image_logits"], shift, axis=0))

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.answer + 0.0 * keras.ops.sum(inputs["image"])


def taught_now(model: Recogniser) -> NDArray[Any]:
    answer: NDArray[Any] = np.asarray(model._teachers_answer(np.zeros((ROWS, 2, 2, 3), np.float32), np.ones(ROWS, bool)))
    return answer


def test_what_the_teachers_say_of_the_same_photo_is_their_share_of_the_photos_loss() -> None:
    alone = given() | {"text_present": np.zeros(ROWS, bool)}
    model = recogniser(teachers=[FixedTeacher(1), FixedTeacher(1)], taught_share=0.6)
    right = outputs(30.0) | {"taught_now": taught_now(model)}
    expected = 30 * 0.6 * PATTERN_WEIGHT["image"] * (HIERARCHY_WEIGHT + FLAT_WEIGHT)
    assert loss(model, alone, targets(), right) == pytest.approx(expected, rel=0.01)
    nobody = targets(labels=np.full_like(targets()["labels"], -1))
    assert loss(model, alone, nobody, right) < 1e-4, "an attribute without a label stays out"
    outliers = targets(image_familiar=np.zeros(ROWS, np.float32))
    assert loss(model, alone, outliers, right | {"image_in_domain": np.full(ROWS, -50, np.float32)}) < 1e-4


def test_teachers_who_differ_are_asked_for_their_mean() -> None:
    answer = taught_now(recogniser(teachers=[FixedTeacher(0), FixedTeacher(1)], taught_share=0.6))
    assert answer.shape == (ROWS, SPACE.published_width)
    leaf = SPACE.heads[0]
    assert np.sort(answer[:, leaf.offset : leaf.offset + leaf.size], axis=1)[:, -2:] == pytest.approx(0.5, abs=1e-3)


def test_teachers_are_neither_trained_nor_kept_in_checkpoints() -> None:
    teacher = FixedTeacher()
    model = recogniser(teachers=[teacher], taught_share=0.6)
    assert not teacher.trainable_variables
    assert all(variable is not teacher.answer for variable in model.kept_variables)
    assert len(model.kept_variables) == len(recogniser().kept_variables)


def test_a_made_outlier_is_not_asked_what_it_is() -> None:
    outlier, wrong = targets(image_familiar=np.zeros(ROWS, np.float32)), outputs(-30.0)
    alone = given() | {"text_present": np.zeros(ROWS, bool)}
    unfamiliar = wrong | {"image_in_domain": np.full(ROWS, -50, np.float32)}
    assert loss(recogniser(), alone, outlier, unfamiliar) == pytest.approx(0.0, abs=1e-4)
    assert loss(recogniser(), alone, outlier, wrong) == pytest.approx(IN_DOMAIN_WEIGHT * 50, rel=0.01)


def test_a_swapped_title_is_not_asked_what_the_photo_is() -> None:
    swapped, right = targets(text_matches=np.zeros(ROWS, np.float32)), outputs(30.0)
    wrong_title = right | {"text_logits": outputs(-30.0)["text_logits"]}
    assert loss(recogniser(), given(), swapped, wrong_title) == pytest.approx(0.0, abs=1e-4)
    assert loss(recogniser(), given(), targets(), wrong_title) > 1
    wrong_fused = right | {"fused_logits": outputs(-30.0)["fused_logits"]}
    assert loss(recogniser(), given(), swapped, wrong_fused) > 1, "the photo still says what it is"


def test_an_absent_input_is_not_scored() -> None:
    alone = given() | {"image_present": np.zeros(ROWS, bool)}
    wrong_photo = outputs(30.0) | {"image_logits": outputs(-30.0)["image_logits"]}
    assert loss(recogniser(), alone, targets(), wrong_photo) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("changes", "branch"), [({"max_tokens": 0}, "text"), ({"image_height": 0, "image_width": 0}, "image")])
def test_a_branch_that_is_not_there_costs_nothing(changes: dict[str, int], branch: str) -> None:
    wrong = outputs(30.0) | {f"{branch}_logits": outputs(-30.0)["text_logits"], f"{branch}_in_domain": np.full(ROWS, -50.0)}
    assert loss(recogniser(contrastive_weight=1.0, **changes), given(), targets(), wrong) == pytest.approx(0.0, abs=1e-3)


# ---- contrast


def contrast(predicted: dict[str, Any], y: dict[str, Any] | None = None, x: dict[str, Any] | None = None) -> float:
    return loss(recogniser(contrastive_weight=1.0), x or given(), y or targets(), outputs(30.0) | predicted)


def test_pairs_that_match_cost_less_than_pairs_that_do_not() -> None:
    unit = np.eye(ROWS, EMBEDDING, dtype=np.float32)
    assert contrast({}) < contrast({"text_embedding": unit[::-1]})


def test_equal_titles_are_no_negatives() -> None:
    same_item = np.eye(ROWS, EMBEDDING, dtype=np.float32)
    same_item[1] = same_item[0]
    predicted = {f"{side}_embedding": same_item for side in PATTERN_WEIGHT}
    one_title = targets(title_group=np.array([0, 0, 1, 2], np.int32))
    assert contrast(predicted, one_title) < contrast(predicted)


def test_rows_with_one_input_take_no_part_in_the_contrast() -> None:
    unit = np.eye(ROWS, EMBEDDING, dtype=np.float32)
    strange = unit.copy()
    strange[3] = unit[0]
    x = given() | {"text_present": np.array([True, True, True, False])}
    assert contrast({"text_embedding": strange}, x=x) == pytest.approx(contrast({}, x=x), abs=1e-5)


def test_every_listed_prefix_is_trained() -> None:
    late = np.zeros((ROWS, EMBEDDING), np.float32)
    late[:, 3:] = np.eye(ROWS, 3)
    late[3, 3:] = -1
    early = np.roll(late, 3, axis=1)
    assert contrast({f"{side}_embedding": early for side in PATTERN_WEIGHT}) < contrast(
        {f"{side}_embedding": late for side in PATTERN_WEIGHT}
    )
