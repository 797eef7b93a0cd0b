"""The application, wired: settings in, an ASGI app out. Wiring only.

`uvicorn --factory app.main:create_app` works too, but `python -m app` reports a bad model or setting in one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from app.api import classify, docs, embed, health, models, openapi, problems
from app.api.deps import Engine
from app.api_keys import ApiKeys
from app.body_budget import BodyBudget
from app.cors import CrossOrigin
from app.direct import DirectApp, Layer
from app.edge import BodyLimit, RequestEdge
from app.lifespan import configured_fetcher, lifespan
from app.logging import configure_logging
from app.overload import OverloadGate
from app.quota import QuotaTable
from app.security import ApiKeyGuard
from app.settings import Settings, load_settings

if TYPE_CHECKING:
    from app.fetch.fetcher import PhotoFetcher


def create_app(
    settings: Settings | None = None,
    *,
    engine: Engine | None = None,
    keys: ApiKeys | None = None,
    quotas: QuotaTable | None = None,
    fetcher: PhotoFetcher | None = None,
) -> FastAPI:
    """The service. `engine`: an open one, closed at shutdown; None opens the configured one at start-up. `keys`, `quotas`:
    those of other workers; None makes the settings' own.
    `fetcher`: for `image_url`; None makes one where the settings allow hosts.

    Raises `SettingsError` for a bad environment or key file.
    """
    settings = settings or load_settings()
    if keys is None:
        keys = settings.api_keys()
    if quotas is None and settings.max_items_per_minute_per_key:
        quotas = QuotaTable(settings.max_items_per_minute_per_key)
    # Here rather than in `python -m app`: no way of starting may print tracebacks with a request's values in them.
    configure_logging(settings.log_level, settings.log_format)
    app = DirectApp(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.is_stopping = False  # said by the server
    app.state.keys = keys
    app.state.fetcher = fetcher or configured_fetcher(settings)
    # For the server to ask, below all of this.
    app.state.gate = OverloadGate(app, paths=_paths_of(classify.router, embed.router))
    routers = [classify.router, embed.router, models.router, health.router]
    if settings.docs_enabled:
        routers.append(docs.router)
    for router in routers:
        app.include_router(router)
    openapi.install(app)
    problems.install(app)
    # A request meets the edge first, then other origins, the keys, the body limit.
    layers: list[Layer] = [
        (RequestEdge, {"fixed_paths": _paths_of(*routers)}),
        (ApiKeyGuard, {"keys": keys, "metrics_require_key": settings.metrics_require_key, "quotas": quotas}),
        (
            BodyLimit,
            {
                "max_body_bytes": settings.max_body_bytes,
                "max_bulk_body_bytes": settings.max_bulk_body_bytes,
                "budget": BodyBudget(settings.max_total_body_bytes),
            },
        ),
    ]
    if settings.cors_origins:
        layers.insert(1, (CrossOrigin, {"origins": settings.cors_origins}))
    app.include_directly([classify.router, embed.router], layers=layers)
    return app


def _paths_of(*routers: APIRouter) -> frozenset[str]:
    return frozenset(route.path for router in routers for route in router.routes if isinstance(route, APIRoute))
