"""`GET /health/live`, `GET /health/ready`, `GET /metrics`."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from app import metrics
from app.api.answers import AnswerModel
from app.api.deps import EngineDep
from app.api.openapi import problems, success
from app.engine.errors import NotReadyError

router = APIRouter(tags=["Operation"])


class HealthAnswer(AnswerModel):
    """`ok`; anything else is a problem document."""

    status: Literal["ok"] = "ok"


# Probes of load balancers and `wget --spider` use HEAD.
@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Is the process alive?", responses=success({"status": "ok"}))
async def live() -> HealthAnswer:
    """The process answers. Restart it when this fails."""
    return HealthAnswer()


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", summary="May traffic be sent?", responses=success({"status": "ok"}) | problems("not_ready"))
async def ready(request: Request, engine: EngineDep) -> HealthAnswer:
    """The models are loaded, warmed up and have repeated their golden answers. Send traffic only while this
    succeeds."""
    if request.app.state.is_stopping or not engine.is_ready():
        raise NotReadyError("The service is not ready; send again after the time in Retry-After.")
    return HealthAnswer()


_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"example": 'itemlens_items_total{model="fashion",status="ok"} 128.0\n'}},
    }
}


@router.head("/metrics", include_in_schema=False)
@router.get(
    "/metrics", summary="Metrics for Prometheus", response_class=Response, responses=_METRICS | problems("unauthorized")
)
async def prometheus_metrics() -> Response:
    """Requests, queue, decoding, model time, batch sizes, and decisions per model and attribute."""
    return Response(metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
