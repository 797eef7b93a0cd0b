"""The endpoints whose cost matters, called without the framework's way to them.

Owns finding such an endpoint by its exact path, and answering what it raises with the application's own handlers. Routing,
dependencies and exit stacks cost a request 100 us that these endpoints use nothing of. They are registered as usual, too:
every other method and path takes the framework's way, and so does the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, APIRouter
from starlette.types import ASGIApp, Receive, Scope, Send

from app.edge import context_of

Layer = tuple[Callable[..., ASGIApp], Mapping[str, Any]]
"""A middleware and its options."""


class DirectApp(FastAPI):
    """FastAPI that calls the endpoints of some routers directly."""

    _direct: ASGIApp | None = None
    _direct_paths: frozenset[str] = frozenset()

    def include_directly(self, routers: Iterable[APIRouter], *, layers: Sequence[Layer]) -> None:
        """`routers`: of POST endpoints that take the request alone, await it and return a response. `layers`: the middlewares,
        the outermost first, which are around every other endpoint as well. Call once."""
        routes = {route.path: route for router in routers for route in router.routes if isinstance(route, APIRoute)}
        self._direct = _DirectRoutes(self, routes)
        self._direct_paths = frozenset(routes)
        for layer, options in reversed(layers):
            self._direct = layer(self._direct, **options)
            self.add_middleware(layer, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._direct is not None and self._is_direct(scope):
            scope["app"] = self
            await self._direct(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _is_direct(self, scope: Scope) -> bool:
        return (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and scope["path"] in self._direct_paths
            and not scope.get("root_path")
        )


class _DirectRoutes:
    def __init__(self, app: FastAPI, routes: Mapping[str, APIRoute]) -> None:
        self.app = app
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = scope["route"] = self.routes[scope["path"]]
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
            await response(scope, receive, send)
        except Exception as error:
            handlers = cast("Mapping[Any, Any]", self.app.exception_handlers)
            handler = next((handlers[kind] for kind in type(error).__mro__ if kind in handlers), None)
            if handler is None or context_of(scope).response_started:
                raise
            response = await handler(request, error)
            await response(scope, receive, send)
