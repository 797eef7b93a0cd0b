"""Items whose photo is still elsewhere: fetched after admission, then read like any other.

Owns how many may wait for their photo, how many are fetched at once, how long a photo is held, and the fetches' end with
their request. Refuses to know where a photo comes from: an item brings its own `image_source`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from app.engine.batcher import Batcher
from app.engine.decode import DecodePool, ItemReader
from app.engine.errors import ItemError, ItemFailedError, OverloadedError, RequestError, without_frames
from app.engine.fetched_bytes import FetchedBytes
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
        self._max_image_bytes = settings.max_image_bytes
        # One photo always has room, so that every request can go on. What is fetched is read, and leaves, whoever else waits.
        self._room = FetchedBytes(max(settings.max_fetched_bytes, settings.max_image_bytes))
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

        When that ends, so do the fetches: their items are settled, or nobody waits for them any more. A photo is let go of once
        it is read, however long its neighbours take.
        """
        photos = _HeldPhotos(items, self._room)
        tasks: set[asyncio.Task[bytes]] = set()

        def settle(index: int, task: asyncio.Task[bytes]) -> None:
            # A task holds what it came to.
            self._tasks.discard(task)
            tasks.discard(task)
            batcher.photo_came()
            if task.cancelled():
                batcher.drop(submission, index)
                return
            error = task.exception()
            if error is None:
                photos.add(index, task.result())
                if submission.is_unwanted():
                    # The request may be over, so that nobody else would let go of it.
                    photos.let_go(index)
                    batcher.drop(submission, index)
                    return
                self._pool.start(
                    reader, batcher, submission, photos.items, modality=modality, indices=(index,), on_read=photos.let_go
                )
                return
            if not isinstance(error, ItemError):  # a defect of ours; the type alone holds nothing of the item
                logger.error("photo_not_fetched", error=type(error).__name__)
                error = ItemFailedError("The photo could not be fetched; the others are not affected.")
            batcher.fail(submission, index, without_frames(error))

        for index, source in sources.items():
            tasks.add(self._begin(source, partial(settle, index)))
        present = [index for index in range(len(items)) if index not in sources]
        if present:
            self._pool.start(reader, batcher, submission, photos.items, modality=modality, indices=present)
        try:
            return await submission.wait()
        finally:
            for task in tasks:
                task.cancel()
            photos.let_go_of_all()

    async def close(self) -> None:
        """End what is still being fetched."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, source: PhotoSource, settle: Callable[[asyncio.Task[bytes]], None]) -> asyncio.Task[bytes]:
        task = asyncio.create_task(self._fetch(source))
        # In a callback, since a task that is cancelled before its first step runs nothing of its own.
        task.add_done_callback(settle)
        self._tasks.add(task)
        return task

    async def _fetch(self, source: PhotoSource) -> bytes:
        async with self._slots:
            # How large it is nobody knows before it is there.
            await self._room.take(self._max_image_bytes)
            photo = b""
            try:
                photo = await source()
            finally:
                self._room.give(self._max_image_bytes - len(photo))
            return photo


class _HeldPhotos:
    """`items` of one request, each with its photo from when it has come until it is read."""

    def __init__(self, items: Sequence[Item], room: FetchedBytes) -> None:
        self.items = list(items)
        self._unfetched = items
        self._room = room
        self._held_bytes: dict[int, int] = {}

    def add(self, index: int, photo: bytes) -> None:
        """`photo` counts in the room already."""
        self._held_bytes[index] = len(photo)
        self.items[index] = Item(photo, self._unfetched[index].text)

    def let_go(self, index: int) -> None:
        """Of what is held at that place, if anything. From any thread."""
        held_bytes = self._held_bytes.pop(index, None)
        if held_bytes is not None:
            self.items[index] = self._unfetched[index]
            self._room.give(held_bytes)

    def let_go_of_all(self) -> None:
        """A thread that reads one of them goes on to its end."""
        for index in list(self._held_bytes):
            self.let_go(index)
