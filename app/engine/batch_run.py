"""One batch, in the thread that owns the runtime: read what is unread, run it, find who is to blame.

Owns what each item of a batch came to. Refuses to know queues, admission and who waits for an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from app.engine.errors import ItemError, ItemFailedError
from app.engine.runtimes.base import Runtime
from app.engine.submission import BatchOutputs, ItemOutputs, ItemRow, Submission

logger = structlog.get_logger(__name__)

ReadItem = Callable[[int], ItemRow | ItemError | None]
"""Reads the item at an index of its submission; None when another thread will see to it. Never raises."""
Outcome = ItemOutputs | ItemError


@dataclass(slots=True)
class Entry:
    """An item with its row, or with what will read it in the runtime's thread. `queued_at`: in seconds of `time.monotonic()`;
    `queue_s`: how long it waited to be taken. `is_elsewhere`: another thread will see to it."""

    submission: Submission
    index: int
    source: ItemRow | ReadItem
    queued_at: float
    queue_s: float = 0.0
    is_elsewhere: bool = False

    def row(self) -> ItemRow:
        """Raises TypeError for one that has not been read."""
        if not isinstance(self.source, ItemRow):
            raise TypeError("unread")
        return self.source


def are_of_one(entries: Sequence[Entry]) -> bool:
    """Whether all are of one request."""
    return all(entry.submission is entries[0].submission for entry in entries)


def read_entries(entries: Iterable[Entry]) -> tuple[list[Entry], list[tuple[Entry, ItemError]]]:
    """Those that have a row now, and why others have none. Who is read elsewhere is in neither."""
    ready: list[Entry] = []
    failed: list[tuple[Entry, ItemError]] = []
    for entry in entries:
        outcome = entry.source if isinstance(entry.source, ItemRow) else entry.source(entry.index)
        if isinstance(outcome, ItemRow):
            entry.source = outcome
            ready.append(entry)
        elif outcome is not None:
            failed.append((entry, outcome))
        else:
            entry.is_elsewhere = True
    return ready, failed


def run_batch(runtime: Runtime, rows: Sequence[ItemRow]) -> list[Outcome]:
    """What the runtime says of each. One item never fails its neighbours: where the batch fails, each is run alone. What fails
    then is logged: its sender is told that it is in the log."""
    if not rows:
        return []
    try:
        return _run(runtime, rows)
    except Exception:
        return [_run_alone(runtime, row) for row in rows]


def _run(runtime: Runtime, rows: Sequence[ItemRow]) -> list[Outcome]:
    inputs = {name: np.stack([row.values[name] for row in rows]) for name in rows[0].values}
    outputs = runtime.run(inputs)
    finite = np.ones(len(rows), np.bool_)
    for values in outputs.values():
        finite &= np.isfinite(values.reshape(len(rows), -1)).all(axis=1)
    if not finite.all():
        logger.error("outputs_not_finite", items=int((~finite).sum()))
    shared = BatchOutputs(outputs, [row.inputs for row in rows])
    return [ItemOutputs(shared, position) if finite[position] else _item_failed() for position in range(len(rows))]


def _run_alone(runtime: Runtime, row: ItemRow) -> Outcome:
    try:
        return _run(runtime, [row])[0]
    except Exception as error:  # a defect of ours; the type alone holds nothing of the item
        logger.error("item_not_answered", error=type(error).__name__)
        return _item_failed()


def _item_failed() -> ItemFailedError:
    return ItemFailedError("The model could not answer this item; the others are not affected.")
