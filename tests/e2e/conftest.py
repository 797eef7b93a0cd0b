"""The services that the end-to-end tests share: one process each per session, started when first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service import ROOT, Service
from tests.tiny_bundle import write_tiny_bundle

API_KEY = "a-key-for-tests-alone"


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` reads photos and titles, `tiny-photos` photos alone. Read it only: it is served."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_bundle(folder, name="tiny")
    write_tiny_bundle(folder, name="tiny-photos", with_text=False)
    return folder


@pytest.fixture(scope="session")
def service(tiny_models: Path) -> Iterator[Service]:
    """Both tiny bundles on LiteRT, open to all."""
    with Service(tiny_models) as running:
        yield running


@pytest.fixture(scope="session")
def guarded_service(tiny_models: Path) -> Iterator[Service]:
    """The same on TensorFlow, for holders of `API_KEY`."""
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    with Service(tiny_models, RUNTIME="tensorflow", API_KEYS_SHA256=digest) as running:
        yield running


@pytest.fixture(scope="session")
def shipped_service() -> Iterator[Service]:
    """What the repository ships. Skips where nothing is shipped yet."""
    models = ROOT / "models"
    if not list(models.glob("*/*/manifest.json")):
        pytest.skip("no shipped model in models/ yet")
    with Service(models, RUNTIME="auto") as running:
        yield running
