"""Start and stop: open the engine, hold it while the service runs, close it.

Owns the order, and the task that renews the keys. The engine loads, verifies, warms up and replays its golden answers before
`open_engine` returns, so the service is ready from its first answer on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from app import __version__, metrics
from app.api.deps import Engine
from app.settings import Settings

if TYPE_CHECKING:
    from app.engine.engine import Engine as ModelEngine
    from app.fetch.fetcher import PhotoFetcher


async def open_configured_engine(settings: Settings) -> ModelEngine:
    """The real engine, which watches the models folder. Raises `BundleError` when nothing can be served."""
    # Imported here: `--help`, the OpenAPI export and tests with an engine of their own need no numeric library.
    from app.engine.engine import open_engine

    return await open_engine(settings.engine_settings())


def configured_fetcher(settings: Settings) -> PhotoFetcher | None:
    """None where no host is allowed."""
    if not settings.image_url_hosts:
        return None
    # Imported here: the code that reaches out is not even there where the operator has not asked for it.
    from app.fetch.fetcher import PhotoFetcher

    return PhotoFetcher(
        settings.image_url_hosts, timeout_s=settings.image_url_timeout_s, max_image_bytes=settings.max_image_bytes
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the engine unless the app was given one. Raises `BundleError`."""
    metrics.BUILD.labels(__version__).set(1)
    if app.state.engine is None:
        app.state.engine = await open_configured_engine(app.state.settings)
    engine: Engine = app.state.engine
    renewal = asyncio.create_task(app.state.keys.watch())
    try:
        yield
    finally:
        renewal.cancel()
        app.state.engine = None
        await engine.close()
        metrics.count_waiting()
