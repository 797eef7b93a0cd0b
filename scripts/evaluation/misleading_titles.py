"""P7: a title that says nothing, or the wrong thing, beside a photo. It must not cost more than its absence would.

Owns the titles. Answers are the service's own, which leaves an unfamiliar title out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.engine.items import Classification
from scripts.evaluation.evaluation import Evaluation
from scripts.evaluation.figures import NO_LABEL, Quality, answers
from scripts.evaluation.unfamiliar import gibberish_titles

MAX_LOSS = 0.005
"""How far under the photo alone the accuracy may fall, as a share of one."""
# New, summer, simple ...; women's, men's ...; dress, shirt, watch ...
_CHINESE = (
    ("新款", "夏季", "简约", "经典", "韩版", "时尚", "秋冬", "百搭"),
    ("女士", "男士", "儿童", "中性", "学生", "情侣"),
    ("红色", "黑色", "白色", "蓝色", "灰色", "绿色"),
    ("连衣裙", "衬衫", "手表", "运动鞋", "手提包", "牛仔裤", "太阳镜", "凉鞋", "毛衣", "钱包"),
)


def chinese_titles(count: int, seed: int) -> list[str]:
    """Titles as a Chinese shop writes them."""
    rng = random.Random(seed)
    return ["".join(rng.choice(words) for words in _CHINESE) for _ in range(count)]


def measure_misleading_titles(evaluation: Evaluation) -> Quality:
    """Per kind of title, per attribute: `n`, `accuracy`, `change` against the photo alone (a share of one), and whether
    it stays within `MAX_LOSS`; `left_out` is the share of titles that the service left out of its answer."""
    both = evaluation.need("both")
    rows = np.flatnonzero(both)
    titles = evaluation.titles or []
    alone = answers(
        evaluation.answerer, {name: value[rows] for name, value in evaluation.outputs.items()}, image=True, text=False
    )
    reference = _accuracies(evaluation, alone, rows)
    result: Quality = {"max_loss": MAX_LOSS, "kinds": {}}
    kinds: dict[str, Sequence[str]] = {
        "empty": [""] * len(titles),
        "Chinese": chinese_titles(len(titles), evaluation.seed),
        "noise": gibberish_titles(len(titles), evaluation.seed),
    }
    contradicting = contradicting_titles(evaluation)
    if contradicting is not None:
        kinds[f"of another {evaluation.family_attribute}"] = contradicting
    for kind, changed in kinds.items():
        outputs = evaluation.changed(f"title: {kind}", titles=changed)
        outputs = {name: value[rows] for name, value in outputs.items()}
        given = answers(evaluation.answerer, outputs, image=True, text=kind != "empty")
        found = _accuracies(evaluation, given, rows)
        result["kinds"][kind] = {
            "left_out": float(np.mean(["text" not in answer.inputs for answer in given])),
            "attributes": {
                name: entry
                | {
                    "change": entry["accuracy"] - reference[name]["accuracy"],
                    "within_max_loss": entry["accuracy"] >= reference[name]["accuracy"] - MAX_LOSS,
                }
                for name, entry in found.items()
            },
        }
    result["photo_alone"] = reference
    return result


def contradicting_titles(evaluation: Evaluation) -> list[str] | None:
    """For every row the title of a row of another family; None where the rows are all of one."""
    titles = evaluation.titles or []
    family = evaluation.truth[evaluation.family_attribute]
    rng = np.random.default_rng(evaluation.seed)
    named = np.flatnonzero((family != NO_LABEL) & evaluation.title_present)
    if len(np.unique(family[named])) < 2:
        return None
    result = []
    for own in family:
        choice = named[rng.integers(len(named))]
        while family[choice] == own:
            choice = named[rng.integers(len(named))]
        result.append(titles[choice])
    return result


def _accuracies(evaluation: Evaluation, given: Sequence[Classification], rows: NDArray[np.int64]) -> Quality:
    """Of the labels that the service answers; "does not apply" is wrong where there is a label."""
    result: Quality = {}
    for name, target in evaluation.truth.items():
        labels = evaluation.answerer.attribute_labels[name]
        known = [(answer, index) for answer, index in zip(given, target[rows], strict=True) if index != NO_LABEL]
        if known:
            right = [index >= 0 and answer.attributes[name].label == labels[index] for answer, index in known]
            result[name] = {"n": len(known), "accuracy": float(np.mean(right))}
    return result
