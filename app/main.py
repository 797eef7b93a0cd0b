"""The application, wired: settings in, an ASGI app out. Wiring only.

`uvicorn --factory app.main:create_app` works too, but `python -m app` reports a bad model or setting in one line.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.api import classify, docs, embed, health, models, openapi, problems
from app.api.deps import Engine
from app.edge import BodyLimit, RequestEdge
from app.lifespan import lifespan
from app.logging import configure_logging
from app.security import ApiKeyGuard, ApiKeys
from app.settings import Settings, load_settings


def create_app(settings: Settings | None = None, *, engine: Engine | None = None) -> FastAPI:
    """The service. `engine`: an open one, closed at shutdown; None opens the configured one at start-up.

    Raises `SettingsError` for a bad environment or key file.
    """
    settings = settings or load_settings()
    # Here rather than in `python -m app`: no way of starting may print tracebacks with a request's values in them.
    configure_logging(settings.log_level, settings.log_format)
    app = FastAPI(
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    app.state.engine = engine
    routers = [classify.router, embed.router, models.router, health.router]
    if settings.docs_enabled:
        routers.append(docs.router)
    for router in routers:
        app.include_router(router)
    openapi.install(app)
    problems.install(app)
    # Added from the inside out: a request meets the edge first, then the keys, then the body limit.
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes, max_bulk_body_bytes=settings.max_bulk_body_bytes)
    app.add_middleware(ApiKeyGuard, keys=ApiKeys(settings.key_digests()), metrics_require_key=settings.metrics_require_key)
    fixed_paths = frozenset(route.path for router in routers for route in router.routes if isinstance(route, APIRoute))
    app.add_middleware(RequestEdge, fixed_paths=fixed_paths)
    return app
