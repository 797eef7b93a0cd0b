"""An epoch prepared by another process is the one that would have been prepared here."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import numpy as np
import pytest

from scripts.batches import TrainingBatches
from scripts.epochs_ahead import EpochsAhead
from tests.scripts.test_batches import BYTES, ROWS, TRAIN, same

# The processes are made before the first network in a run; here TensorFlow's threads are there already, and left alone.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")


def options(epoch: int) -> dict[str, Any]:
    return {
        "tokenizer": BYTES, "label_names": ["bowl"], "batch_size": 64, "seed": 1, "epoch": epoch, "strokes_are_outliers": True,
        "handheld_photo_share": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize("processes", [0, 2])
def test_epochs_come_in_turn_and_are_what_they_would_be_here(processes: int) -> None:
    taught = np.zeros((len(ROWS.titles), 3), np.float16)
    wanted = [TrainingBatches(ROWS, np.arange(TRAIN), **options(epoch), taught=taught) for epoch in range(4)]
    with EpochsAhead(ROWS, np.arange(TRAIN), processes) as ahead:
        given = list(ahead.epochs([options(epoch) for epoch in range(4)], taught=taught))
    assert len(given) == 4
    for one, other in zip(given, wanted, strict=True):
        assert all(same(one[batch], other[batch]) for batch in range(len(other)))


def test_photos_of_another_size_are_read_here() -> None:
    smaller = ROWS.resized(4, 4)
    with EpochsAhead(ROWS, np.arange(TRAIN), 1) as ahead:
        (batches,) = ahead.epochs([options(0)], rows=smaller)
    assert batches[0][0]["image"].shape == (64, 4, 4, 3)


def test_an_epoch_that_cannot_be_prepared_says_why() -> None:
    with EpochsAhead(ROWS, np.arange(TRAIN), 1) as ahead, pytest.raises(TypeError, match="no_such_option"):
        list(ahead.epochs([options(0) | {"no_such_option": 1}]))


def test_ctrl_c_is_for_the_training_alone() -> None:
    with EpochsAhead(ROWS, np.arange(TRAIN), 1) as ahead:
        assert ahead._pool is not None
        assert ahead._pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


class EndsElsewhere:
    """Garbage with something to end, as a runtime has threads: in another process that is the end of it."""

    def __init__(self) -> None:
        self.itself = self
        self.maker = os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.maker:
            os._exit(3)


def test_the_processes_leave_their_parents_garbage_alone() -> None:
    gc.disable()
    try:
        EndsElsewhere()
        with EpochsAhead(ROWS, np.arange(TRAIN), 1) as ahead:
            assert ahead._pool is not None
            assert ahead._pool.submit(gc.collect).result() >= 0
    finally:
        gc.enable()
