"""Versions come and go in one process while requests are answered: none fails, each is answered by one version."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.engine import registry
from app.engine.engine import Engine, open_engine
from app.engine.errors import SpaceConflictError, UnknownModelError
from app.engine.items import Item
from app.engine.loading import LoadedVersion, load_version
from app.engine.settings import EngineSettings
from app.engine.watch import SETTLE_S
from tests.tiny_bundle import jpeg, seal

pytestmark = pytest.mark.anyio
SHIRT = Item(image=jpeg(3), text="Puma Men Grey T-shirt")
WAIT_S = 30.0


@pytest.fixture
def settings(tiny_copy: Path) -> EngineSettings:
    return EngineSettings(models_dir=tiny_copy.parent.parent, runtime="litert", runtime_threads=1, models_poll_s=0.05)


@pytest.fixture
async def engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    engine = await open_engine(settings)
    yield engine
    await engine.close()


def ship(settings: EngineSettings, version: int, *, name: str = "tiny", **changes: str) -> Path:
    """A version that appears whole, as the exporter makes one."""
    staging = settings.models_dir / name / f".{version}"
    shutil.copytree(settings.models_dir / "tiny" / "1", staging)
    seal(staging, name=name, version=version, **changes)
    return staging.rename(settings.models_dir / name / str(version))


def states(engine: Engine) -> dict[str, str]:
    return {version.version: version.state for version in engine.describe("tiny").versions}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_new_version_takes_over_without_a_failed_request(
    engine: Engine, settings: EngineSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []
    seen: set[str] = set()
    is_seen_loading = threading.Event()

    def load_once_seen(*given: Any, **named: Any) -> LoadedVersion:
        assert is_seen_loading.wait(WAIT_S)  # on a busy machine it may be done between two answers
        return load_version(*given, **named)

    monkeypatch.setattr(registry, "load_version", load_once_seen)

    async def keep_asking() -> None:
        while answered.count("3") < 3:
            reply = await engine.classify([SHIRT, SHIRT])
            assert len(reply.results) == 2
            answered.append(reply.model.version)
            seen.update(states(engine).values())
            if "loading" in seen:
                is_seen_loading.set()
            assert engine.is_ready()

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as asking:
        tasks = [asking.create_task(keep_asking()) for _ in range(4)]
        ship(settings, 2)
        await until(lambda: "2" in answered)
        ship(settings, 3)
    assert all(task.done() for task in tasks)
    order = [answered.index(version) for version in ("1", "2", "3")]
    assert order == sorted(order)
    assert "loading" in seen
    await until(lambda: states(engine) == {"3": "ready", "2": "ready"})
    assert (await engine.classify([SHIRT], version="2")).model.version == "2"
    with pytest.raises(UnknownModelError):
        await engine.classify([SHIRT], version="1")


async def test_a_request_under_way_is_answered_by_the_version_it_began_with(engine: Engine, settings: EngineSettings) -> None:
    ship(settings, 2)
    began = asyncio.create_task(engine.classify([SHIRT] * 400))
    shutil.rmtree(settings.models_dir / "tiny" / "1")
    await until(lambda: engine.describe("tiny").version == "2")
    reply = await began
    assert reply.model.version == "1"
    assert len(reply.results) == 400


async def test_a_stream_keeps_its_version_until_it_ends(engine: Engine, settings: EngineSettings) -> None:
    with engine.hold(model=None, version=None, space_id=None) as held:
        ship(settings, 2)
        ship(settings, 3)
        await until(lambda: states(engine) == {"3": "ready", "2": "ready", "1": "draining"})
        reply = await engine.classify([SHIRT], model=held.model.name, version=held.model.version)
        assert reply.model.version == "1"
    await until(lambda: "1" not in states(engine))
    with pytest.raises(UnknownModelError):
        await engine.classify([SHIRT], version="1")


async def test_a_bad_version_is_refused_and_the_old_one_serves_on(
    engine: Engine, settings: EngineSettings, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ship(settings, 2)
    (folder / "labels.json").write_bytes(b"damaged")
    await until(lambda: states(engine) == {"1": "ready", "2": "refused"})
    assert engine.is_ready()
    assert (await engine.classify([SHIRT])).model.version == "1"
    refused = engine.describe("tiny").versions[1]
    assert refused.reason == "tiny/2: labels.json does not have the size in manifest.json; copy the bundle again"
    await asyncio.sleep(10 * settings.models_poll_s)
    shutil.rmtree(folder)
    await until(lambda: states(engine) == {"1": "ready"})
    ship(settings, 2)
    await until(lambda: states(engine) == {"2": "ready", "1": "ready"})


async def test_taking_a_version_away_rolls_back(engine: Engine, settings: EngineSettings) -> None:
    newest = ship(settings, 2)
    await until(lambda: engine.describe("tiny").version == "2")
    newest.rename(newest.with_name(".2"))
    await until(lambda: states(engine) == {"1": "ready"})
    assert (await engine.classify([SHIRT])).model.version == "1"


async def test_an_index_of_the_version_before_is_still_served(engine: Engine, settings: EngineSettings) -> None:
    old = engine.describe("tiny").space_id
    ship(settings, 2, space_id="tiny-another")
    await until(lambda: engine.describe("tiny").version == "2")
    assert (await engine.embed([SHIRT])).space_id == "tiny-another"
    for model in (None, "tiny"):
        reply = await engine.embed([SHIRT], model=model, space_id=old)
        assert (reply.space_id, reply.model.version) == (old, "1")
    with pytest.raises(SpaceConflictError):
        await engine.embed([SHIRT], version="2", space_id=old)
    with engine.hold(model=None, version=None, space_id=old) as held:
        assert held.model.version == "1"


async def test_a_new_model_is_served_beside_the_others(engine: Engine, settings: EngineSettings) -> None:
    ship(settings, 1, name="fashion")
    await until(lambda: [model.name for model in engine.models()] == ["tiny", "fashion"])
    assert (await engine.classify([SHIRT], model="fashion")).model.name == "fashion"
    assert (await engine.classify([SHIRT])).model.name == "tiny"


async def test_without_a_schedule_the_folder_is_looked_at_when_asked(settings: EngineSettings) -> None:
    engine = await open_engine(replace(settings, models_poll_s=0))
    try:
        ship(settings, 2)
        await asyncio.sleep(0.2)
        assert engine.describe("tiny").version == "1"
        engine.look_for_models()
        await until(lambda: engine.describe("tiny").version == "2")
    finally:
        await engine.close()


async def test_closing_while_versions_come_and_go_ends_in_order(settings: EngineSettings) -> None:
    engine = await open_engine(settings)
    with engine.hold(model=None, version=None, space_id=None):
        ship(settings, 2)
        ship(settings, 3)
        await until(lambda: states(engine).get("1") == "draining")
        ship(settings, 4)
        async with asyncio.timeout(SETTLE_S + WAIT_S):
            await engine.close()
    assert not engine.is_ready()
