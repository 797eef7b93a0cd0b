"""A request is forgotten when it is answered: its photo does not wait for the garbage collector."""

from __future__ import annotations

import dataclasses

import pytest

from app.engine.engine import open_engine
from app.engine.errors import ImageNotFetchedError, ItemError
from app.engine.items import Item
from app.engine.settings import EngineSettings
from tests.garbage import garbage_of
from tests.tiny_bundle import jpeg

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("decode_threads", [1, 2])
async def test_answered_items_leave_nothing_behind(litert_settings: EngineSettings, decode_threads: int) -> None:
    """With one thread the runtime's own reads the items, with two others do."""
    engine = await open_engine(dataclasses.replace(litert_settings, decode_threads=decode_threads))
    photo = jpeg(1)

    async def fetch() -> bytes:
        return photo

    async def miss() -> bytes:
        try:
            raise OSError
        except OSError:
            raise ImageNotFetchedError("The photo could not be fetched.", field="image") from None

    items = [Item(photo, "Levis Men Blue Shirt"), Item(None, "Watch"), Item(photo[:300], None), Item(b"AAAA", "Shirt")]
    fetched = [Item(image_source=fetch), Item(text="Watch", image_source=miss), Item(text="Watch")]
    try:
        await engine.classify([*items, *fetched])  # what is made once
        with garbage_of() as garbage:
            for _ in range(3):
                reply = await engine.classify(items)
                await engine.embed(items[:2])
                reached_out = await engine.classify(fetched)
            assert [isinstance(result, ItemError) for result in reply.results] == [False, False, True, True]
            assert [isinstance(result, ItemError) for result in reached_out.results] == [False, True, False]
            del reply, reached_out
        assert not garbage
    finally:
        await engine.close()
