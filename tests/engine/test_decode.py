import asyncio
import threading
import time
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.batch_plan import plan_batches
from app.engine.batcher import Batcher
from app.engine.bundle import load_bundle
from app.engine.decode import DecodePool, ItemReader
from app.engine.errors import (
    EmptyItemError,
    ImageTooLargeError,
    InputNotSupportedError,
    ItemError,
    ItemFailedError,
    TextTooLongError,
    UndecodableImageError,
)
from app.engine.items import EmbeddingModality, Item
from app.engine.photo_decoder import PhotoDecoder
from app.engine.runtimes.base import Arrays
from app.engine.settings import EngineSettings
from app.engine.submission import ItemOutputs
from app.engine.text import TitleTokenizer
from scripts.soak.photo_corpus import many_scans
from tests.engine.conftest import DoublingRuntime
from tests.tiny_bundle import HEIGHT, MAX_TOKENS, WIDTH, jpeg

SETTINGS = EngineSettings(max_image_bytes=4096, max_image_pixels=5000, max_text_chars=20)
PHOTO = jpeg(1)
PHOTOS = PhotoDecoder(SETTINGS)
"""Starts no process: every photo here is small."""


def reader_of(models_dir: Path, name: str) -> ItemReader:
    bundle = load_bundle(models_dir / name / "1")
    tokenizer = None
    if bundle.tokenizer_json is not None:
        tokenizer = TitleTokenizer.from_json(bundle.tokenizer_json, MAX_TOKENS)
    return ItemReader.of(bundle.spec(), SETTINGS, reads_image=True, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def reader(tiny_models_dir: Path) -> ItemReader:
    return reader_of(tiny_models_dir, "tiny")


@pytest.fixture(scope="module")
def photo_reader(tiny_models_dir: Path) -> ItemReader:
    return reader_of(tiny_models_dir, "photos")


@pytest.fixture(scope="module")
def title_reader(reader: ItemReader) -> ItemReader:
    return ItemReader.of(reader.spec, SETTINGS, reads_image=False, tokenizer=reader.tokenizer)


def test_an_item_with_both_gives_both(reader: ItemReader) -> None:
    row = reader.read(Item(PHOTO, "Grey shirt"), "fused", PHOTOS)
    assert row.inputs == ("image", "text")
    assert row.values["image"].shape == (HEIGHT, WIDTH, 3)
    assert row.values["image"].any()
    assert row.values["token_ids"].any()
    assert row.values["image_present"]
    assert row.values["text_present"]


def test_what_is_absent_is_zero_and_flagged(reader: ItemReader) -> None:
    photo, title = reader.read(Item(PHOTO), "fused", PHOTOS), reader.read(Item(text="shirt"), "fused", PHOTOS)
    assert (photo.inputs, title.inputs) == (("image",), ("text",))
    assert not photo.values["text_present"]
    assert not photo.values["token_ids"].any()
    assert not title.values["image_present"]
    assert not title.values["image"].any()


def test_reading_one_item_leaves_the_next_one_blank(reader: ItemReader) -> None:
    reader.read(Item(PHOTO, "shirt"), "fused", PHOTOS)
    assert not np.any(reader.read(Item(text="shirt"), "fused", PHOTOS).values["image"])


@pytest.mark.parametrize("text", ["", "  \t\n", "\u200b\u200e", "\x00\x07"])
def test_a_title_without_readable_characters_counts_as_absent(reader: ItemReader, text: str) -> None:
    assert reader.read(Item(PHOTO, text), "fused", PHOTOS).inputs == ("image",)
    with pytest.raises(EmptyItemError):
        reader.read(Item(None, text), "fused", PHOTOS)


def test_an_item_with_nothing_is_refused(reader: ItemReader) -> None:
    with pytest.raises(EmptyItemError):
        reader.read(Item(), "fused", PHOTOS)


@pytest.mark.parametrize(
    ("item", "error", "field"),
    [
        (Item(b"\xff" * 4097), ImageTooLargeError, "image"),
        (Item(jpeg(1, height=100, width=51)), ImageTooLargeError, "image"),
        (Item(PHOTO[:200]), UndecodableImageError, "image"),
        (Item(PHOTO, "x" * 21), TextTooLongError, "text"),
    ],
)
def test_limits_name_the_field_and_not_the_content(reader: ItemReader, item: Item, error: type[ItemError], field: str) -> None:
    with pytest.raises(error) as refused:
        reader.read(item, "fused", PHOTOS)
    assert refused.value.field == field
    assert "xxx" not in refused.value.detail


def test_a_model_ignores_what_it_has_no_branch_for(photo_reader: ItemReader, title_reader: ItemReader) -> None:
    assert photo_reader.read(Item(PHOTO, "shirt"), "fused", PHOTOS).inputs == ("image",)
    assert title_reader.read(Item(b"no photo at all", "shirt"), "fused", PHOTOS).inputs == ("text",)


def test_an_item_of_only_the_wrong_kind_is_not_supported(photo_reader: ItemReader, title_reader: ItemReader) -> None:
    with pytest.raises(InputNotSupportedError, match="photos only"):
        photo_reader.read(Item(text="shirt"), "fused", PHOTOS)
    with pytest.raises(InputNotSupportedError, match="titles only"):
        title_reader.read(Item(PHOTO), "fused", PHOTOS)


def test_one_modality_reads_that_input_alone(reader: ItemReader) -> None:
    assert reader.read(Item(PHOTO, "shirt"), "image", PHOTOS).inputs == ("image",)
    assert reader.read(Item(b"not read", "shirt"), "text", PHOTOS).inputs == ("text",)


@pytest.mark.parametrize(("item", "modality"), [(Item(text="shirt"), "image"), (Item(PHOTO), "text")])
def test_a_modality_needs_its_input(reader: ItemReader, item: Item, modality: EmbeddingModality) -> None:
    with pytest.raises(InputNotSupportedError, match=f"embedding of the {modality} needs"):
        reader.read(item, modality, PHOTOS)


def test_personal_data_in_a_title_is_masked_before_it_is_read(reader: ItemReader) -> None:
    plain = reader.read(Item(text="Grey shirt"), "fused", PHOTOS).values["token_ids"]
    for title in ("Grey a@b.org shirt", "Grey shirt ::1", "10.0.0.1 Grey shirt"):
        assert np.array_equal(reader.read(Item(text=title), "fused", PHOTOS).values["token_ids"], plain), title
    unmasked = replace(reader, settings=replace(SETTINGS, mask_personal_data=False))
    assert not np.array_equal(unmasked.read(Item(text="Grey a@b.org shirt"), "fused", PHOTOS).values["token_ids"], plain)


@pytest.mark.parametrize(
    "title",
    [
        "Grey j\u00fcrgen@m\u00fcller.de shirt",
        "Grey john\uff20example.com shirt",
        "Grey m\u00f3vil 6123456 shirt",
        "Grey 4111  1111\t1111\n1111 shirt",
        "Grey 4111\u200b1111\u200b1111\u200b1111 shirt",
        "Grey +49\u200b170\u200b1234567 shirt",
    ],
)
def test_personal_data_is_masked_in_every_spelling(reader: ItemReader, title: str) -> None:
    reader = replace(reader, settings=replace(SETTINGS, max_text_chars=100))
    masked = "Grey m\u00f3vil shirt" if "vil" in title else "Grey shirt"
    plain = reader.read(Item(text=masked), "fused", PHOTOS).values["token_ids"]
    for form in ("NFC", "NFD"):
        row = reader.read(Item(text=unicodedata.normalize(form, title)), "fused", PHOTOS).values["token_ids"]
        assert np.array_equal(row, plain), form


def test_a_decomposed_title_may_be_as_long_as_a_composed_one(reader: ItemReader) -> None:
    title = "\ud55c\uad6d\uc2e0\ubc1c" * (SETTINGS.max_text_chars // 4)
    for form in ("NFC", "NFD"):
        assert reader.read(Item(text=unicodedata.normalize(form, title)), "fused", PHOTOS).inputs == ("text",)
    for text in (title + "\ud55c", unicodedata.normalize("NFD", title + "\ud55c"), "x" * 10_000_000):
        with pytest.raises(TextTooLongError):
            reader.read(Item(text=text), "fused", PHOTOS)


def test_a_title_of_personal_data_alone_counts_as_absent(reader: ItemReader) -> None:
    assert reader.read(Item(PHOTO, "jane@example.com"), "fused", PHOTOS).inputs == ("image",)
    with pytest.raises(EmptyItemError):
        reader.read(Item(text="jane@example.com"), "fused", PHOTOS)


@pytest.mark.parametrize(
    ("composed", "decomposed"), [("Caf\u00e9", "Cafe\u0301"), ("\u00c5ngstr\u00f6m", "A\u030angstro\u0308m")]
)
def test_composed_and_decomposed_titles_are_one(reader: ItemReader, composed: str, decomposed: str) -> None:
    first, second = (reader.read(Item(text=title), "fused", PHOTOS).values["token_ids"] for title in (composed, decomposed))
    assert np.array_equal(first, second)


ONE_CORE = replace(SETTINGS, decode_threads=1, runtime_threads=1)
"""The runtime's own thread reads the items."""
TWO_CORES = replace(SETTINGS, decode_threads=2, runtime_threads=2)
on_any_cores = pytest.mark.parametrize(
    "settings", [pytest.param(ONE_CORE, id="one-core"), pytest.param(TWO_CORES, id="two-cores")]
)


@on_any_cores
@pytest.mark.anyio
async def test_a_defect_in_reading_fails_that_item_alone(
    reader: ItemReader, doubling: DoublingRuntime, monkeypatch: pytest.MonkeyPatch, settings: EngineSettings
) -> None:
    def break_down(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("app.engine.photo_decoder.decode_photo", break_down)
    batcher, pool = Batcher(doubling, plan_batches({1: 0.001}), model="defect", max_queue_items=4), DecodePool(settings)
    submission = batcher.admit(2, timeout_s=None)
    pool.start(reader, batcher, submission, [Item(PHOTO), Item()], modality="fused")
    broken, empty = await asyncio.wait_for(submission.wait(), 5)
    assert isinstance(broken, ItemFailedError)
    assert isinstance(empty, EmptyItemError)
    await batcher.close(grace_s=1.0)
    pool.close()


@on_any_cores
@pytest.mark.anyio
async def test_photos_of_a_caller_that_has_gone_are_not_decoded(
    reader: ItemReader, doubling: DoublingRuntime, monkeypatch: pytest.MonkeyPatch, settings: EngineSettings
) -> None:
    decoded: list[object] = []
    monkeypatch.setattr("app.engine.photo_decoder.decode_photo", lambda data, **limits: decoded.append(data))
    batcher, pool = Batcher(doubling, plan_batches({1: 0.001}), model="gone", max_queue_items=8), DecodePool(settings)
    submission = batcher.admit(4, timeout_s=None)
    submission.abandoned = "cancelled"
    pool.start(reader, batcher, submission, [Item(PHOTO)] * 4, modality="fused")
    await batcher.close(grace_s=5.0)
    pool.close()
    assert decoded == []
    assert batcher.pending_items == 0


@on_any_cores
@pytest.mark.anyio
async def test_ordinary_photos_do_not_wait_for_large_ones(
    reader: ItemReader, doubling: DoublingRuntime, monkeypatch: pytest.MonkeyPatch, settings: EngineSettings
) -> None:
    may_end = threading.Event()

    def wait(*args: object, **kwargs: object) -> object:
        may_end.wait(5)
        raise UndecodableImageError("The photo is damaged.", field="image")

    monkeypatch.setattr("app.engine.photo_decoder.PhotoProcess.decode_photo", wait)
    large = Item(many_scans(30, 8, 8), "shirt")
    batcher = Batcher(doubling, plan_batches({1: 0.001}), model="large", max_queue_items=16)
    pool = DecodePool(replace(settings, max_image_bytes=1 << 20))
    held = batcher.admit(4, timeout_s=None)
    pool.start(reader, batcher, held, [large] * 4, modality="fused")
    quick = batcher.admit(2, timeout_s=None)
    pool.start(reader, batcher, quick, [Item(PHOTO), large], modality="text")
    still = batcher.admit(1, timeout_s=None)
    pool.start(reader, batcher, still, [Item(PHOTO)], modality="fused")
    await asyncio.wait_for(quick.wait(), 4)
    await asyncio.wait_for(still.wait(), 4)
    assert held.unsettled == 4
    may_end.set()
    assert all(isinstance(outcome, UndecodableImageError) for outcome in await asyncio.wait_for(held.wait(), 5))
    await batcher.close(grace_s=1.0)
    pool.close()


@on_any_cores
@pytest.mark.anyio
async def test_one_slow_photo_waits_for_one_of_a_request_with_many(
    reader: ItemReader, doubling: DoublingRuntime, monkeypatch: pytest.MonkeyPatch, settings: EngineSettings
) -> None:
    turns = threading.Semaphore(0)

    def take_turn(*args: object, **kwargs: object) -> object:
        turns.acquire(timeout=5)
        raise UndecodableImageError("The photo is damaged.", field="image")

    monkeypatch.setattr("app.engine.photo_decoder.PhotoProcess.decode_photo", take_turn)
    slow = Item(many_scans(30, 8, 8))
    batcher = Batcher(doubling, plan_batches({1: 0.001}), model="fair", max_queue_items=64)
    pool = DecodePool(replace(settings, max_image_bytes=1 << 20))
    many, one = batcher.admit(40, timeout_s=None), batcher.admit(1, timeout_s=None)
    pool.start(reader, batcher, many, [slow] * 40, modality="fused")
    pool.start(reader, batcher, one, [slow], modality="fused")
    give_up_s = time.monotonic() + 5
    while pool._large._tasks < 40 and time.monotonic() < give_up_s:  # all have been handed over, and one of the many begun
        await asyncio.sleep(0.001)
    turns.release(3)
    await asyncio.wait_for(one.wait(), 5)
    assert many.unsettled >= 37
    for _ in range(40):
        turns.release()
    await asyncio.wait_for(many.wait(), 5)
    await batcher.close(grace_s=1.0)
    pool.close()


class MeanRuntime(DoublingRuntime):
    """Answers each photo with its mean."""

    def run(self, batch: Arrays) -> dict[str, NDArray[np.float32]]:
        return {"mean": batch["image"].mean(axis=(1, 2, 3), dtype=np.float32)}


@on_any_cores
@pytest.mark.anyio
async def test_a_large_photo_is_answered_and_its_process_ends_with_the_pool(
    reader: ItemReader, settings: EngineSettings
) -> None:
    batcher = Batcher(MeanRuntime(), plan_batches({1: 0.001}), model="answered", max_queue_items=16)
    pool = DecodePool(
        replace(EngineSettings(), decode_threads=settings.decode_threads, runtime_threads=settings.runtime_threads)
    )
    submission = batcher.admit(2, timeout_s=None)
    pool.start(reader, batcher, submission, [Item(many_scans(30, 8, 8)), Item(many_scans(200, 8, 8))], modality="fused")
    answered, refused = await asyncio.wait_for(submission.wait(), 30)
    assert isinstance(answered, ItemOutputs)
    assert answered.batch.values["mean"][answered.position] > 0
    assert isinstance(refused, ImageTooLargeError)
    assert submission.timing.decode_ms > 0
    await batcher.close(grace_s=1.0)
    pool.close()
    assert pool.photos._process.pid is None


class HeldRuntime(MeanRuntime):
    """Answers once it may, and keeps the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def run(self, batch: Arrays) -> dict[str, NDArray[np.float32]]:
        self.sizes.append(len(batch["image"]))
        self.entered.set()
        assert self.gate.wait(5)
        return super().run(batch)


@pytest.mark.anyio
async def test_on_one_core_photos_are_read_for_full_batches_and_bad_ones_leave_no_gap(reader: ItemReader) -> None:
    runtime = HeldRuntime()
    runtime.gate.clear()
    batcher = Batcher(runtime, plan_batches({1: 0.001, 4: 0.002}), model="filled", max_queue_items=16)
    pool = DecodePool(ONE_CORE)
    first = batcher.admit(1, timeout_s=None)
    pool.start(reader, batcher, first, [Item(PHOTO)], modality="fused")
    assert await asyncio.to_thread(runtime.entered.wait, 5)
    submission = batcher.admit(5, timeout_s=None)
    items = [Item(PHOTO), Item(b"no photo"), Item(jpeg(2)), Item(), Item(jpeg(3))]
    pool.start(reader, batcher, submission, items, modality="fused")
    runtime.gate.set()
    outcomes = await asyncio.wait_for(submission.wait(), 5)
    await first.wait()
    assert [isinstance(outcome, ItemOutputs) for outcome in outcomes] == [True, False, True, False, True]
    assert runtime.sizes == [1, 3]
    for outcome, item in zip(outcomes, items, strict=True):
        if isinstance(outcome, ItemOutputs):
            expected = reader.read(item, "fused", PHOTOS).values["image"].mean(dtype=np.float32)
            assert outcome.batch.values["mean"][outcome.position] == pytest.approx(expected)
    assert submission.timing.decode_ms > 0
    await batcher.close(grace_s=1.0)
    pool.close()
