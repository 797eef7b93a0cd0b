import asyncio
import dataclasses
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from app import metrics
from app.engine.batcher import Batcher
from app.engine.engine import Engine, open_engine
from app.engine.errors import (
    BundleError,
    DeadlineExceededError,
    EmptyItemError,
    InputNotSupportedError,
    ItemError,
    NotReadyError,
    OverloadedError,
    RequestError,
    SpaceConflictError,
    UndecodableImageError,
    UnknownAttributeError,
    UnknownDimensionsError,
    UnknownModelError,
    UnsupportedModalityError,
)
from app.engine.images import decode_photo
from app.engine.items import Classification, Embedding, EmbeddingModality, Item
from app.engine.settings import EngineSettings
from app.metrics import DECISIONS, ITEMS
from tests.tiny_bundle import jpeg

pytestmark = pytest.mark.anyio

SHIRT = Item(jpeg(1), "Levis Men Blue Checked Shirt")


@pytest.fixture
async def engine(litert_settings: EngineSettings) -> AsyncIterator[Engine]:
    engine = await open_engine(litert_settings)
    yield engine
    await engine.close()


def vector_of(result: Embedding | ItemError) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    assert isinstance(result, Embedding)
    return np.array(result.vector, np.float32)


async def test_an_item_is_classified_by_all_attributes(engine: Engine) -> None:
    reply = await engine.classify([SHIRT])
    (answer,) = reply.results
    assert isinstance(answer, Classification)
    assert (reply.model.name, reply.model.version) == ("tiny", "1")
    assert answer.inputs == ("image", "text")
    assert list(answer.attributes) == ["articleType", "masterCategory", "gender", "sleeveLength"]
    assert answer.agreement is not None
    assert reply.timing.decode_ms > 0
    assert reply.timing.model_ms > 0


async def test_a_lone_item_is_answered_alike_in_the_event_loops_thread(
    litert_settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await open_engine(dataclasses.replace(litert_settings, decode_threads=1, runtime_threads=1))
    decoding: list[threading.Thread] = []

    def decode(*args: Any, **limits: Any) -> Any:
        decoding.append(threading.current_thread())
        return decode_photo(*args, **limits)

    monkeypatch.setattr("app.engine.photo_decoder.decode_photo", decode)
    own = threading.current_thread()
    there = await engine.classify([SHIRT])
    here = await engine.classify([SHIRT], may_hold_loop=True)
    several = await engine.classify([SHIRT, SHIRT], may_hold_loop=True)
    camera = await engine.classify([Item(jpeg(1, height=3000, width=4000))], may_hold_loop=True)
    assert [thread is own for thread in decoding] == [False, True, False, False, False]
    assert here.results == there.results == several.results[:1] == several.results[1:]
    assert isinstance(camera.results[0], Classification)
    assert here.timing.decode_ms > 0
    await engine.close()


async def test_both_runtimes_classify_alike(engine: Engine, litert_settings: EngineSettings) -> None:
    other = await open_engine(dataclasses.replace(litert_settings, runtime="tensorflow"))
    items = [SHIRT, Item(jpeg(2)), Item(text="Casio Women Steel Watch")]
    answers, others = await engine.classify(items), await other.classify(items)
    await other.close()
    for one, two in zip(answers.results, others.results, strict=True):
        assert isinstance(one, Classification)
        assert isinstance(two, Classification)
        assert one.inputs == two.inputs
        for name, answer in one.attributes.items():
            assert answer.label == two.attributes[name].label
            assert answer.confidence == pytest.approx(two.attributes[name].confidence, abs=1e-3)


async def test_a_failed_item_keeps_its_place_and_its_neighbours_are_answered(engine: Engine) -> None:
    reply = await engine.classify([Item(jpeg(1)[:100]), SHIRT, Item(), Item(text="Watch")])
    broken, shirt, empty, watch = reply.results
    assert isinstance(broken, UndecodableImageError)
    assert isinstance(empty, EmptyItemError)
    assert isinstance(shirt, Classification)
    assert isinstance(watch, Classification)
    assert watch.inputs == ("text",)


async def test_an_answer_does_not_depend_on_the_company(engine: Engine) -> None:
    items = [Item(jpeg(seed), "Grey T-shirt" if seed % 2 else None) for seed in range(20)]
    together = await engine.embed(items)
    alone = [(await engine.embed([item])).results[0] for item in items]
    for one, two in zip(together.results, alone, strict=True):
        np.testing.assert_allclose(vector_of(one), vector_of(two), atol=1e-6)


async def test_concurrent_requests_get_their_own_answers(engine: Engine) -> None:
    items = [Item(jpeg(seed)) for seed in range(12)]
    alone = [vector_of((await engine.embed([item])).results[0]) for item in items]
    replies = await asyncio.gather(*(engine.embed([item]) for item in items * 3))
    for index, reply in enumerate(replies):
        np.testing.assert_allclose(vector_of(reply.results[0]), alone[index % 12], atol=1e-6)


async def test_chosen_attributes_come_in_the_order_asked(engine: Engine) -> None:
    (answer,) = (await engine.classify([SHIRT], attributes=["sleeveLength", "articleType", "sleeveLength"])).results
    assert isinstance(answer, Classification)
    assert list(answer.attributes) == ["sleeveLength", "articleType"]


async def test_top_k_bounds_the_candidates(engine: Engine) -> None:
    (answer,) = (await engine.classify([SHIRT], top_k=1)).results
    assert isinstance(answer, Classification)
    assert all(len(given.candidates) <= 1 for given in answer.attributes.values())


async def test_a_model_without_a_text_branch_reads_the_photo_alone(engine: Engine) -> None:
    both, title = (await engine.classify([SHIRT, Item(text="shirt")], model="photos")).results
    assert isinstance(both, Classification)
    assert both.inputs == ("image",)
    assert both.agreement is None
    assert isinstance(title, InputNotSupportedError)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"model": "shoes"}, UnknownModelError),
        ({"version": "2"}, UnknownModelError),
        ({"attributes": ["colour"]}, UnknownAttributeError),
        ({"attributes": []}, UnknownAttributeError),
        ({"top_k": 0}, RequestError),
        ({"precision": 1.0}, RequestError),
    ],
)
async def test_options_are_checked_even_without_items(
    engine: Engine, options: dict[str, object], error: type[Exception]
) -> None:
    for items in ([SHIRT], []):
        with pytest.raises(error) as refused:
            await engine.classify(items, **options)  # type: ignore[arg-type]
        assert "shoes" not in str(refused.value)


async def test_no_items_is_an_empty_reply(engine: Engine) -> None:
    reply = await engine.classify([])
    assert (list(reply.results), reply.model.name) == ([], "tiny")


async def test_every_listed_dimension_is_a_unit_prefix_of_the_full_vector(engine: Engine) -> None:
    full_reply = await engine.embed([SHIRT])
    full = vector_of(full_reply.results[0])
    assert (full_reply.dimensions, full_reply.space_id) == (16, "tiny-0123456789abcdef")
    for length in (4, 8, 16):
        reply = await engine.embed([SHIRT], dimensions=length)
        vector = vector_of(reply.results[0])
        assert reply.dimensions == len(vector) == length
        np.testing.assert_allclose(vector, full[:length] / np.linalg.norm(full[:length]), atol=1e-6)


async def test_unlisted_dimensions_name_the_listed_ones(engine: Engine) -> None:
    with pytest.raises(UnknownDimensionsError, match="4, 8, 16"):
        await engine.embed([SHIRT], dimensions=5)


@pytest.mark.parametrize(("modality", "alone"), [("image", Item(SHIRT.image)), ("text", Item(text=SHIRT.text))])
async def test_a_modality_reads_that_input_alone(engine: Engine, modality: EmbeddingModality, alone: Item) -> None:
    of_both, fused_alone = await engine.embed([SHIRT], modality=modality), await engine.embed([alone])
    assert isinstance(of_both.results[0], Embedding)
    assert of_both.results[0].inputs == (modality,)
    fused = vector_of((await engine.embed([SHIRT])).results[0])
    np.testing.assert_allclose(vector_of(of_both.results[0]), vector_of(fused_alone.results[0]), atol=1e-5)
    assert not np.allclose(vector_of(of_both.results[0]), fused, atol=1e-3)


async def test_an_unknown_attribute_is_pointed_at(engine: Engine) -> None:
    with pytest.raises(UnknownAttributeError) as refusal:
        await engine.classify([SHIRT], attributes=[engine.describe("tiny").hierarchy[0], "colour"])
    assert refusal.value.field == "attributes/1"


async def test_a_modality_that_the_model_lacks_fails_the_request(engine: Engine) -> None:
    with pytest.raises(UnsupportedModalityError) as refusal:
        await engine.embed([SHIRT, SHIRT], model="photos", modality="text")
    assert refusal.value.field == "modality"


async def test_a_modality_that_an_item_lacks_fails_that_item(engine: Engine) -> None:
    vector, error = (await engine.embed([SHIRT, Item(text="shirt")], modality="image")).results
    assert isinstance(vector, Embedding)
    assert isinstance(error, InputNotSupportedError)


async def test_overload_is_told_where_every_model_in_use_is_overloaded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle model does not keep the other's refusals from being cheap, and one in use is not refused for the other's sake."""
    overloaded = {"tiny"}
    monkeypatch.setattr(Batcher, "overload", lambda self: OverloadedError("Too much.") if self._model in overloaded else None)
    assert engine.overload() is None  # nobody has asked for anything yet
    await engine.classify([SHIRT])
    assert engine.overload() is not None
    await engine.classify([SHIRT], model="photos")
    assert engine.overload() is None
    overloaded.add("photos")
    assert engine.overload() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
async def test_the_event_loop_goes_before_the_threads_that_do_the_work(engine: Engine) -> None:
    await engine.classify([SHIRT])
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    working = [thread for thread in threading.enumerate() if thread.name.startswith(("runtime-", "decode", "model-loader"))]
    assert {thread.name.split("_")[0].split("-")[0] for thread in working} >= {"runtime", "decode", "model"}
    for thread in working:
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) > own, thread.name


async def test_a_space_finds_its_model(engine: Engine) -> None:
    reply = await engine.embed([SHIRT], space_id="photos-0123456789abcdef")
    assert reply.model.name == "photos"


async def test_a_space_that_nobody_serves_is_a_conflict(engine: Engine) -> None:
    for model, space in ((None, "tiny-ffff"), ("tiny", "photos-0123456789abcdef")):
        with pytest.raises(SpaceConflictError):
            await engine.embed([SHIRT], model=model, space_id=space)


async def test_a_request_that_runs_out_of_time_says_so(engine: Engine) -> None:
    with pytest.raises(DeadlineExceededError):
        await engine.classify([SHIRT], timeout_s=1e-6)


async def test_items_and_decisions_are_counted(engine: Engine) -> None:
    def counts() -> tuple[float, float, float]:
        metrics.render()  # decisions are counted in bunches, at the latest when somebody looks
        decisions = sum(
            DECISIONS.labels("tiny", "gender", decision)._value.get() for decision in ("accept", "review", "abstain")
        )
        return ITEMS.labels("tiny", "ok")._value.get(), ITEMS.labels("tiny", "empty_item")._value.get(), decisions

    before = counts()
    await engine.classify([SHIRT, Item(), SHIRT])
    assert [after - earlier for after, earlier in zip(counts(), before, strict=True)] == [2, 1, 2]


async def test_decisions_are_counted_without_anybody_looking(engine: Engine) -> None:
    def accepted_or_not() -> float:
        counters = (DECISIONS.labels("tiny", "gender", kind) for kind in ("accept", "review", "abstain"))
        return sum(float(counter._value.get()) for counter in counters)

    before = accepted_or_not()
    await engine.classify([SHIRT])
    async with asyncio.timeout(5):
        while accepted_or_not() == before:
            await asyncio.sleep(0.02)


async def test_models_are_described_default_first(engine: Engine) -> None:
    assert [(model.name, model.is_default) for model in engine.models()] == [("tiny", True), ("photos", False)]
    assert engine.describe("photos").name == "photos"
    with pytest.raises(UnknownModelError):
        engine.describe("shoes")


async def test_a_closed_engine_is_not_ready_and_refuses(litert_settings: EngineSettings) -> None:
    engine = await open_engine(litert_settings)
    assert engine.is_ready()
    running = asyncio.create_task(engine.classify([SHIRT] * 30))
    await asyncio.sleep(0)
    await engine.close()
    await engine.close()
    assert len((await running).results) == 30
    assert not engine.is_ready()
    with pytest.raises(NotReadyError):
        await engine.classify([SHIRT])


async def test_an_engine_without_models_does_not_open(litert_settings: EngineSettings, tmp_path: object) -> None:
    with pytest.raises(BundleError):
        await open_engine(dataclasses.replace(litert_settings, models_dir=tmp_path))  # type: ignore[arg-type]
