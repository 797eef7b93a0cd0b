"""Epochs of batches, prepared by other processes while this one trains.

Owns the processes. An accelerator is through an epoch in a second, where one core needs ten for its titles and made photos;
on a machine of two cores there is nothing to gain. Refuses to know what an epoch consists of (`scripts.batches`).
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.batches import MadePhotos, Rows, TrainingBatches, steps_per_epoch

EPOCHS_AHEAD = 4
"""In the making or made. All processes work on one epoch's photos, so that the first epoch of a run and of each teacher is not
waited for; its titles are one process's work, in the time of several epochs."""

_Prepared = tuple[Future[TrainingBatches], list[Future[list[MadePhotos]]]]
"""An epoch: all but its photos, and those by stretches of its batches."""
_inherited: dict[int, tuple[Rows, NDArray[np.int64]]] = {}
"""What the processes were forked with; nothing of it travels."""


class EpochsAhead:
    """A pool of `processes` for `train_rows` of `rows`; with 0 every epoch is prepared when it is asked for.

    Make it before the first network: the processes are forked, and a library that multiplies on many threads must not be
    running when that happens.
    """

    def __init__(self, rows: Rows, train_rows: NDArray[np.int64], processes: int = 0) -> None:
        self._rows, self._train_rows, self._processes = rows, train_rows, processes
        self._pool: ProcessPoolExecutor | None = None
        if processes:
            _inherited[id(self)] = rows, train_rows
            self._pool = ProcessPoolExecutor(
                processes,
                mp_context=multiprocessing.get_context("fork"),
                initializer=_begin,
            )
            self._pool.submit(int).result()  # forks all of them

    def epochs(
        self, options: Sequence[Mapping[str, Any]], *, rows: Rows | None = None, taught: NDArray[np.float16] | None = None
    ) -> Iterator[TrainingBatches]:
        """The batches of every epoch in turn; `options` are `TrainingBatches`' own. Rows other than those that the processes
        have (smaller photos) are read here."""
        if self._pool is None or (rows is not None and rows is not self._rows):
            for each in options:
                yield TrainingBatches(rows or self._rows, self._train_rows, taught=taught, **each)
            return
        waiting: deque[_Prepared] = deque()
        left = deque(options)
        while left or waiting:
            while left and len(waiting) < EPOCHS_AHEAD:
                waiting.append(self._prepared(self._pool, left.popleft()))
            titles, photos = waiting.popleft()
            batches = titles.result()
            batches.attach(self._rows, taught, [made for part in photos for made in part.result()])
            yield batches

    def _prepared(self, pool: ProcessPoolExecutor, options: Mapping[str, Any]) -> _Prepared:
        steps = steps_per_epoch(len(self._train_rows), options["batch_size"])
        bounds = np.linspace(0, steps, min(self._processes, steps) + 1).astype(int).tolist()
        laid_out = pool.submit(_laid_out, id(self), options)
        untitled = {**options, "tokenizer": None}
        return laid_out, [
            pool.submit(_made, id(self), untitled, range(start, stop)) for start, stop in itertools.pairwise(bounds)
        ]

    def __enter__(self) -> EpochsAhead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            _inherited.pop(id(self), None)


def _begin() -> None:
    """In a new process."""
    # Ctrl-C is for the training, which then ends them; each would say a page about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What was garbage when they were forked is their parent's to end: its threads (a runtime's, say) are not here.
    gc.freeze()


def _laid_out(pool: int, options: Mapping[str, Any]) -> TrainingBatches:
    return TrainingBatches(*_inherited[pool], **options)


def _made(pool: int, options: Mapping[str, Any], batches: range) -> list[MadePhotos]:
    return TrainingBatches(*_inherited[pool], **options).made(batches)
