"""Items whose photo is still elsewhere: fetched after admission, then read like any other.

Owns how many may wait for their photo and how many are fetched at once, and the fetches' end with their request. Refuses to
know where a photo comes from: an item brings its own `image_source`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

import structlog

from app.engine.batcher import Batcher
from app.engine.decode import DecodePool, ItemReader
from app.engine.errors import ItemError, ItemFailedError, OverloadedError, RequestError
from app.engine.items import EmbeddingModality, Item, PhotoSource
from app.engine.settings import EngineSettings
from app.engine.submission import ItemOutputs, Submission
from app.metrics import SHED_ITEMS

logger = structlog.get_logger(__name__)


class PhotoFetches:
    """Lives on one event loop."""

    def __init__(self, settings: EngineSettings, pool: DecodePool) -> None:
        self._pool = pool
        self._max_items = settings.max_fetching_items
        self._slots = asyncio.Semaphore(settings.max_image_fetches)
        self._tasks: set[asyncio.Task[bytes]] = set()

    def check_room(self, items: int, *, model: str) -> None:
        """For the photos of `items` more items; they count from the call of `answer` on, with no await between.

        Raises RequestError for more than could ever be, OverloadedError for more than now.
        """
        if items > self._max_items:
            raise RequestError(f"Send at most {self._max_items} items whose photo is to be fetched.", field="items")
        if len(self._tasks) + items > self._max_items:
            SHED_ITEMS.labels(model, "overloaded").inc(items)
            raise OverloadedError("Too many photos are being fetched; try again later.")

    async def answer(
        self,
        reader: ItemReader,
        batcher: Batcher,
        submission: Submission,
        items: Sequence[Item],
        sources: Mapping[int, PhotoSource],
        *,
        modality: EmbeddingModality,
    ) -> list[ItemOutputs | ItemError]:
        """Fetch the photos that `sources` names by their items' places, read every item, and wait as `Submission.wait` does.

        When that ends, so do the fetches: their items are settled, or nobody waits for them any more.
        """
        complete = list(items)

        def settle(index: int, task: asyncio.Task[bytes]) -> None:
            self._tasks.discard(task)
            batcher.photo_came()
            if task.cancelled():
                batcher.drop(submission, index)
                return
            error = task.exception()
            if error is None:
                complete[index] = Item(task.result(), items[index].text)
                self._pool.start(reader, batcher, submission, complete, modality=modality, indices=(index,))
                return
            if not isinstance(error, ItemError):  # a defect of ours; the type alone holds nothing of the item
                logger.error("photo_not_fetched", error=type(error).__name__)
                error = ItemFailedError("The photo could not be fetched; the others are not affected.")
            batcher.fail(submission, index, error)

        tasks = []
        for index, source in sources.items():
            task = asyncio.create_task(self._fetch(source))
            # In a callback, since a task that is cancelled before its first step runs nothing of its own.
            task.add_done_callback(partial(settle, index))
            tasks.append(task)
        self._tasks.update(tasks)
        present = [index for index in range(len(items)) if index not in sources]
        if present:
            self._pool.start(reader, batcher, submission, complete, modality=modality, indices=present)
        try:
            return await submission.wait()
        finally:
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        """End what is still being fetched."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, source: PhotoSource) -> bytes:
        async with self._slots:
            return await source()
