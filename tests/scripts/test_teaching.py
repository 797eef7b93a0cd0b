"""What is taught are probabilities, of the right labels, from the photo alone."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.config import NetworkConfig
from scripts.labels import LabelSpace, build_label_space
from scripts.network import build_network
from scripts.served_model import ServedModel
from scripts.teaching import probabilities, taught_answers
from tests.scripts.conftest import COLOURS, MATERIALS, TONES, MadeRun, steps_untraced

NETWORK = NetworkConfig(
    image_height=16, image_width=16, widths=(4,), depths=(1,), max_tokens=3, vocabulary_size=257, token_width=4,
    recurrent_width=4, fused_width=8, embedding_width=4, dimensions=(4,),
)  # fmt: skip


def space_of(colours: list[str]) -> LabelSpace:
    table = {
        "tone": [TONES[name] for name in colours],
        "colour": colours,
        "material": [list(MATERIALS)[i % len(MATERIALS)] for i in range(len(colours))],
        "shape": [("round", "square")[i % 2] for i in range(len(colours))],
    }
    return build_label_space(
        table, range(len(colours)), label_columns=("tone", "colour", "material", "shape"), hierarchy=("tone", "colour")
    )


def products(colour: str, count: int = 6) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    photos = np.full((count, 16, 16, 3), 255, np.uint8)
    photos[:, 2:13, 2:13] = COLOURS[colour]
    return photos


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
def test_a_teacher_passes_on_what_it_knows_and_the_rest_is_left_to_the_own_network(trained: MadeRun) -> None:
    # Another order of labels, one fewer, and a head that the teacher has never heard of.
    space = space_of(["yellow", "red", "green"])
    teacher = ServedModel(trained.bundle, runtime="litert", threads=1)
    photos = np.concatenate([products("red"), products("green"), products("yellow")])
    with steps_untraced():
        network = build_network(NETWORK, vocabulary_size=257, logits_width=space.logits_width)
        taught = taught_answers(network, photos, np.arange(12), space=space, teachers=[teacher] * 20, batch_size=8)
    assert taught.shape == (18, space.published_width)
    assert taught.dtype == np.float16
    assert not taught[12:].any(), "rows that were not asked about"
    for head in space.heads:
        part = taught[:12, head.offset : head.offset + head.size].astype(float)
        assert part.sum(axis=1) == pytest.approx(np.ones(12), abs=0.01)
        if "colour" in head.levels:  # twenty teachers outweigh the untrained network
            names = [path[-1] for path in head.paths]
            assert [names[i] for i in part.argmax(axis=1)] == ["red"] * 6 + ["green"] * 6
        if head.levels == ("shape",):
            assert part.max() < 0.95


def test_probabilities_are_those_of_each_head() -> None:
    space = space_of(["yellow", "red", "green"])
    logits = np.zeros((1, space.published_width), np.float32)
    first, second = space.heads[:2]
    logits[0, first.offset] = np.log(2.0)
    logits[0, second.offset : second.offset + second.size] = -np.inf
    result = probabilities(logits, space)[0]
    assert result[first.offset : first.offset + first.size] == pytest.approx([0.5, 0.25, 0.25])
    assert not result[second.offset : second.offset + second.size].any(), "a head that a teacher lacks"
