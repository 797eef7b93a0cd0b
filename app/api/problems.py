"""Every exception that a route may raise, as a problem document.

Owns the handlers. The last resort, for what nobody expected, is at the edge.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.edge import context_of
from app.engine.errors import EngineError, without_frames
from app.errors import ProblemError, problem_from, problem_response

_BY_STATUS = {404: "not_found", 405: "method_not_allowed"}


def _respond(request: Request, problem: ProblemError) -> Response:
    context = context_of(request.scope)
    context.code = problem.type.code
    return problem_response(problem, context.request_id)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)  # noqa: S101  (registered for this class)
    return _respond(request, without_frames(error))


async def _on_engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)  # noqa: S101  (registered for this class)
    problem = problem_from(error)
    if problem.type.status == 500:
        # The edge logs where it came from and answers without its words.
        raise error
    without_frames(error)
    if request.method in ("GET", "HEAD"):
        # There is no body to point into.
        problem.errors = ()
    return _respond(request, problem)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for this class)
    code = _BY_STATUS.get(error.status_code)
    if code is None:
        raise error
    headers = dict(error.headers or {})
    if "GET" in headers.get("Allow", "") or "HEAD" in headers.get("Allow", ""):
        headers["Allow"] = "GET, HEAD"  # two routes each, of which the framework names the first
    return _respond(request, ProblemError(code, headers=headers))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    # Bodies and options are checked by hand; only a path could fail here, and its content is not repeated.
    return _respond(request, ProblemError("invalid_request"))


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(EngineError, _on_engine_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
