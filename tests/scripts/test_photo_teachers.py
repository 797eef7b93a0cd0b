"""Teachers read photos alone, differ from each other, and are trained once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.batches import Rows
from scripts.config import TeachersConfig
from scripts.epochs_ahead import EpochsAhead
from scripts.labels import LabelSpace
from scripts.photo_teachers import answers_of, photo_teachers
from tests.scripts.conftest import steps_untraced
from tests.scripts.test_finishing import COUNT, NETWORK, TRAINING, catalogue

pytestmark = pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly`:UserWarning")
CONFIG = TeachersConfig(count=2, epochs=1, unmixed_epochs=1, stem="small", widths=(4, 6), depths=(1, 1), batch_size=16)
TRAIN_ROWS, VAL_ROWS = np.arange(COUNT - 6), np.arange(COUNT - 6, COUNT)


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    with steps_untraced():
        yield


@dataclass(frozen=True)
class Taught:
    """What `photo_teachers` was given, left in its folder, answered and said."""

    rows: Rows
    space: LabelSpace
    run_dir: Path
    readers: list[Any]
    said: str


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    rows, space, _ = catalogue()
    rows.photo_present[2] = False
    run_dir = tmp_path_factory.mktemp("run")
    with redirect_stdout(StringIO()) as said, steps_untraced():
        readers = teach(rows, space, run_dir)
    return Taught(rows, space, run_dir, readers, said.getvalue())


def teach(rows: Rows, space: LabelSpace, run_dir: Path, *, resume: bool = False) -> list[Any]:
    return photo_teachers(
        rows, TRAIN_ROWS, VAL_ROWS, config=CONFIG, space=space, network=NETWORK, training=replace(TRAINING, epochs=9),
        run_dir=run_dir, resume=resume, ahead=EpochsAhead(rows, TRAIN_ROWS),
    )  # fmt: skip


def test_each_teacher_reads_photos_alone_and_is_trained_once(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, space = taught.rows, taught.space
    given = {"image": rows.photos[:3].astype(np.float32), "image_present": np.ones(3, bool)}
    first, second = (np.asarray(reader(given)) for reader in taught.readers)
    assert first.shape == (3, space.logits_width)
    assert not np.allclose(first, second)
    assert "teacher 2 of 2" in taught.said

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("scripts.fitting._optimizer", fail)
    again = [np.asarray(reader(given)) for reader in teach(rows, space, taught.run_dir, resume=True)]
    assert np.allclose(again[0], first, atol=1e-5)
    assert np.allclose(again[1], second, atol=1e-5)


def test_a_teacher_gets_nothing_from_the_one_before(taught: Taught, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(taught.run_dir, run_dir, ignore=shutil.ignore_patterns("teacher2"))
    given = {"image": taught.rows.photos[:3].astype(np.float32), "image_present": np.ones(3, bool)}
    anew = [np.asarray(reader(given)) for reader in teach(taught.rows, taught.space, run_dir, resume=True)]
    assert np.allclose(anew[1], np.asarray(taught.readers[1](given)), atol=1e-4)


def test_the_answers_are_mean_probabilities_of_training_photos_and_outlive_the_teachers(taught: Taught, tmp_path: Path) -> None:
    rows, space, readers = taught.rows, taught.space, taught.readers
    kept = tmp_path / "answers.npz"
    answers = answers_of(readers, rows, TRAIN_ROWS, space, kept, resume=False, batch_size=5)
    assert answers is not None
    assert answers.shape == (COUNT, space.published_width)
    assert not answers[[2, *VAL_ROWS]].any(), "no photo, or no training row"
    asked = TRAIN_ROWS[TRAIN_ROWS != 2]
    for head in space.heads:
        if not head.auxiliary:
            assert answers[asked, head.offset : head.offset + head.size].sum(axis=1) == pytest.approx(1, abs=0.01)
    views = [rows.photos[asked], rows.photos[asked][:, :, ::-1]]
    expected = np.zeros((len(asked), space.heads[0].size))
    for reader in readers:
        for view in views:
            logits = np.asarray(reader({"image": view.astype(np.float32), "image_present": np.ones(len(asked), bool)}))
            scores = np.exp(logits[:, : space.heads[0].size])
            expected += scores / scores.sum(axis=1, keepdims=True) / 4
    assert np.allclose(answers[asked, : space.heads[0].size], expected, atol=2e-3)

    assert answers_of([], rows, TRAIN_ROWS, space, kept, resume=False) is None
    again = answers_of([], rows, TRAIN_ROWS, space, kept, resume=True)
    assert again is not None
    assert np.array_equal(again, answers)
    assert answers_of([], rows, TRAIN_ROWS, space, tmp_path / "none.npz", resume=True) is None
