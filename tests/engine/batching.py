"""A batcher around the runtime that doubles numbers, and how tests send to it and keep it busy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.engine.batcher import Batcher
from app.engine.errors import ItemError
from app.engine.submission import ItemOutputs, ItemRow, Submission
from tests.engine.conftest import DoublingRuntime, row_of


def send(batcher: Batcher, numbers: Sequence[int], timeout_s: float | None = None) -> Submission:
    submission = batcher.admit(len(numbers), timeout_s=timeout_s)
    for index, number in enumerate(numbers):
        batcher.put(submission, index, ItemRow(row_of(number), ("image",)))
    return submission


def doubles(outcomes: Sequence[ItemOutputs | ItemError]) -> list[float]:
    return [float(outcome.batch.values["double"][outcome.position]) for outcome in outcomes if isinstance(outcome, ItemOutputs)]


async def occupy(batcher: Batcher, doubling: DoublingRuntime) -> asyncio.Task[list[ItemOutputs | ItemError]]:
    """Hold the runtime in a call with the number 100, so that what follows queues up."""
    doubling.gate.clear()
    doubling.entered.clear()
    task = asyncio.create_task(send(batcher, [100]).wait())
    assert await asyncio.to_thread(doubling.entered.wait, 5)
    return task
