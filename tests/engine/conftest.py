"""One tiny real bundle for the whole session, copies of it to damage, and a runtime that needs no model."""

from __future__ import annotations

import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine.batch_plan import plan_batches
from app.engine.batcher import Batcher
from app.engine.runtimes.base import Arrays
from app.engine.settings import EngineSettings
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `tiny/1` (photo and title) and `photos/1` (photo alone). Read only: damage copies (`tiny_copy`)."""
    models_dir = tmp_path_factory.mktemp("models")
    write_tiny_bundle(models_dir, name="tiny")
    write_tiny_bundle(models_dir, name="photos", with_text=False)
    return models_dir


@pytest.fixture
def tiny_copy(tiny_models_dir: Path, tmp_path: Path) -> Path:
    """A bundle folder of one's own, `<tmp_path>/tiny/1`."""
    return Path(shutil.copytree(tiny_models_dir / "tiny" / "1", tmp_path / "tiny" / "1"))


@pytest.fixture
def litert_settings(tiny_models_dir: Path) -> EngineSettings:
    return EngineSettings(models_dir=tiny_models_dir, runtime="litert", default_model="tiny", runtime_threads=1)


# 4 items cost what 2 single ones do; a full batch is 4.
PLAN = plan_batches({1: 0.001, 2: 0.0015, 4: 0.002})


class DoublingRuntime:
    """Answers each item's number with its double. Can be held at the start of a call, and made to fail."""

    name = "doubling"
    buckets = (1, 2, 4)

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.on_batch: Callable[[list[int]], None] = lambda numbers: None

    def run(self, batch: Arrays) -> dict[str, NDArray[np.float32]]:
        numbers = batch["number"].tolist()
        self.batches.append(numbers)
        self.entered.set()
        assert self.gate.wait(5)
        self.on_batch(numbers)
        return {"double": np.array([2.0 * n if n >= 0 else np.nan for n in numbers], np.float32)}

    def keep_buckets(self, largest: int) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def doubling() -> DoublingRuntime:
    return DoublingRuntime()


def row_of(number: int) -> dict[str, NDArray[Any]]:
    return {"number": np.array(number)}


@pytest.fixture
async def batcher(doubling: DoublingRuntime) -> AsyncIterator[Batcher]:
    batcher = Batcher(doubling, PLAN, model="doubling", max_queue_items=8)
    yield batcher
    doubling.gate.set()
    await batcher.close(grace_s=1.0)
