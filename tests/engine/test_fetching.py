"""Items whose photo comes from elsewhere; the sources here are functions, the network's own tests are in `tests/fetch`."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import AsyncIterator, Sequence

import pytest

from app.engine.engine import Engine, open_engine
from app.engine.errors import (
    DeadlineExceededError,
    ImageNotFetchedError,
    ItemError,
    ItemFailedError,
    NotReadyError,
    OverloadedError,
    RequestError,
    UndecodableImageError,
)
from app.engine.items import Classification, Embedding, Item
from app.engine.settings import EngineSettings
from tests.tiny_bundle import jpeg

pytestmark = pytest.mark.anyio


class PhotoStore:
    """Gives a photo when it is asked for it, as soon as `is_open` says so. Counts who asks at once and who gave up."""

    def __init__(self, photo: bytes = jpeg(1)) -> None:
        self.photo = photo
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.asked = self.asking = self.most_asking = self.given_up = 0

    async def __call__(self) -> bytes:
        self.asked += 1
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        try:
            await self.is_open.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.asking -= 1
        return self.photo

    def close(self) -> None:
        self.is_open.clear()

    async def is_asked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while self.asked < times:
                await asyncio.sleep(0.005)


async def missing() -> bytes:
    raise ImageNotFetchedError("The photo could not be fetched.", field="image")


async def defective() -> bytes:
    raise RuntimeError("a defect")


@pytest.fixture(params=[1, 2], ids=["read in the runtime's thread", "read in others"])
async def engine(litert_settings: EngineSettings, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """With one thread for decoding the runtime's own reads the items, as it does by default on few cores."""
    settings = dataclasses.replace(
        litert_settings, decode_threads=request.param, max_image_fetches=2, max_fetching_items=6, max_queue_items=16
    )
    engine = await open_engine(settings)
    yield engine
    await engine.close()
    assert held_bytes(engine) == 0, "whatever came of the requests"


@pytest.fixture
def store() -> PhotoStore:
    return PhotoStore()


def pending_items(engine: Engine) -> int:
    return engine._registry.resolve(None, None).batcher.pending_items


def held_bytes(engine: Engine) -> int:
    return engine._fetches._room.held_bytes


async def settled(engine: Engine) -> None:
    """Until no item is pending any more: none has been forgotten."""
    async with asyncio.timeout(5):
        while pending_items(engine):
            await asyncio.sleep(0.005)


def codes(results: Sequence[object]) -> list[str]:
    return [result.code if isinstance(result, ItemError) else "ok" for result in results]


async def test_a_fetched_photo_is_answered_as_one_that_was_sent(engine: Engine, store: PhotoStore) -> None:
    title = "Levis Men Blue Checked Shirt"
    sent, fetched = (await engine.classify([Item(jpeg(1), title), Item(text=title, image_source=store)])).results
    assert isinstance(fetched, Classification)
    assert fetched.inputs == ("image", "text")
    assert sent == fetched
    one, other = (await engine.embed([Item(jpeg(1)), Item(image_source=store)], dimensions=4)).results
    assert isinstance(one, Embedding)
    assert one == other


async def test_every_item_comes_to_its_own_end(engine: Engine, store: PhotoStore) -> None:
    broken = PhotoStore(jpeg(1)[:100])
    items = [
        Item(image_source=missing),
        Item(image_source=store),
        Item(image_source=broken),
        Item(image_source=defective),
        Item(text="Watch"),
        Item(),
        Item(text="x" * 2001, image_source=store),
    ]
    results = (await engine.classify(items)).results
    assert codes(results) == [
        "image_not_fetched",
        "ok",
        "undecodable_image",
        "internal_error",
        "ok",
        "empty_item",
        "text_too_long",
    ]
    assert isinstance(results[2], UndecodableImageError)
    assert isinstance(results[3], ItemFailedError)
    assert "defect" not in results[3].detail
    await settled(engine)


async def test_an_item_waits_for_its_own_photo_whatever_its_neighbours_have(engine: Engine, store: PhotoStore) -> None:
    slow = PhotoStore()
    slow.close()
    items = [Item(text="Watch", image_source=slow), Item(text="Watch"), Item(image_source=store), Item(image_source=slow)]
    asking = asyncio.create_task(engine.classify(items))
    await slow.is_asked(1)
    await asyncio.sleep(0.05)
    assert pending_items(engine) == 2
    slow.is_open.set()
    results = (await asking).results
    assert [result.inputs if isinstance(result, Classification) else result for result in results] == [
        ("image", "text"),
        ("text",),
        ("image",),
        ("image",),
    ]
    assert pending_items(engine) == 0


async def test_what_reads_no_photo_fetches_none(engine: Engine, store: PhotoStore) -> None:
    title, nothing = (
        await engine.embed([Item(text="Watch", image_source=store), Item(image_source=store)], modality="text")
    ).results
    assert isinstance(title, Embedding)
    assert codes([nothing]) == ["input_not_supported"]
    assert store.asked == 0


async def test_only_so_many_are_fetched_at_once(engine: Engine, store: PhotoStore) -> None:
    store.close()
    asking = asyncio.create_task(engine.classify([Item(image_source=store)] * 6))
    await store.is_asked(2)
    await asyncio.sleep(0.02)
    assert store.asked == 2
    store.is_open.set()
    assert codes((await asking).results) == ["ok"] * 6
    assert store.most_asking == 2


async def test_a_photo_is_let_go_of_once_it_is_read_whoever_is_still_waited_for(engine: Engine, store: PhotoStore) -> None:
    slow = PhotoStore(jpeg(2))
    slow.close()
    references = sys.getrefcount(store.photo)
    asking = asyncio.create_task(engine.classify([Item(image_source=slow), *[Item(image_source=store)] * 5]))
    await store.is_asked(5)
    async with asyncio.timeout(5):
        while pending_items(engine) > 1:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    references_left = sys.getrefcount(store.photo)  # apart from the assertion, which holds what it asks about
    assert references_left == references
    assert held_bytes(engine) == engine._settings.max_image_bytes, "what the slow one may come to"
    slow.is_open.set()
    assert codes((await asking).results) == ["ok"] * 6


@pytest.mark.parametrize(("max_fetched_bytes", "at_once"), [(2_500_000, 2), (1024, 1)])
async def test_a_fetch_without_room_for_its_photo_waits_and_every_request_can_go_on(
    litert_settings: EngineSettings, store: PhotoStore, max_fetched_bytes: int, at_once: int
) -> None:
    settings = dataclasses.replace(litert_settings, max_image_bytes=1_000_000, max_fetched_bytes=max_fetched_bytes)
    engine = await open_engine(settings)
    try:
        store.close()
        requests = [asyncio.create_task(engine.classify([Item(image_source=store)] * 12)) for _ in range(2)]
        late = asyncio.create_task(engine.classify([Item(image_source=store)], timeout_s=0.1))
        await store.is_asked(at_once)
        with pytest.raises(DeadlineExceededError):
            await late
        assert store.asked == at_once
        store.is_open.set()
        for request in requests:
            assert codes((await request).results) == ["ok"] * 12
        assert (store.asked, store.most_asking) == (24, at_once)
    finally:
        await engine.close()
    assert held_bytes(engine) == 0


async def test_more_than_may_wait_for_their_photo_are_refused_while_others_are_answered(
    engine: Engine, store: PhotoStore
) -> None:
    store.close()
    asking = asyncio.create_task(engine.classify([Item(image_source=store)] * 5))
    await store.is_asked(2)
    with pytest.raises(OverloadedError):
        await engine.classify([Item(image_source=store)] * 2)
    assert store.asked == 2
    # Neither the queue nor what is known of its pace suffers from a host that does not answer.
    for _ in range(5):
        assert codes((await engine.classify([Item(jpeg(2)), Item(text="Watch")], timeout_s=5.0)).results) == ["ok", "ok"]
    store.is_open.set()
    await asking
    assert codes((await engine.classify([Item(image_source=store)] * 6)).results) == ["ok"] * 6
    with pytest.raises(RequestError):
        await engine.classify([Item(image_source=store)] * 7)


async def test_nothing_is_fetched_for_a_request_that_is_not_admitted(engine: Engine, store: PhotoStore) -> None:
    item = Item(image_source=store)
    with pytest.raises(DeadlineExceededError):
        await engine.classify([item], timeout_s=1e-7)
    with pytest.raises(RequestError):
        await engine.classify([item, *[Item(text="Watch")] * 16])
    await engine.close()
    with pytest.raises(NotReadyError):
        await engine.classify([item])
    assert store.asked == 0


async def test_fetches_end_when_the_caller_leaves(engine: Engine, store: PhotoStore) -> None:
    store.close()
    asking = asyncio.create_task(engine.classify([Item(image_source=store)] * 4))
    await store.is_asked(2)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await settled(engine)
    assert (store.asked, store.given_up) == (2, 2)
    store.is_open.set()
    assert codes((await engine.classify([Item(image_source=store)] * 6)).results) == ["ok"] * 6


async def test_fetches_end_at_the_callers_deadline(engine: Engine, store: PhotoStore) -> None:
    store.close()
    with pytest.raises(DeadlineExceededError):
        await engine.classify([Item(image_source=store)] * 4, timeout_s=0.05)
    await settled(engine)
    assert (store.asked, store.given_up) == (2, 2)


async def test_an_engine_that_closes_ends_what_is_still_fetched(
    engine: Engine, store: PhotoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.engine._CLOSE_GRACE_S", 0.05)
    store.close()
    asking = asyncio.create_task(engine.classify([Item(image_source=store)] * 4))
    await store.is_asked(2)
    await engine.close()
    with pytest.raises(DeadlineExceededError):
        await asyncio.wait_for(asking, 5)
    assert store.given_up == 2
