"""`POST /v1/classify`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api.answers import ClassifyResponse
from app.api.exchange import answer
from app.api.openapi import classify_documentation, problems
from app.api.operations import CLASSIFY

router = APIRouter(tags=["Recognition"])


@router.post(
    "/v1/classify",
    summary="Classify items",
    response_model=ClassifyResponse,
    responses=problems("recognition"),
    openapi_extra=classify_documentation(),
)
async def classify(request: Request) -> Response:
    """Say what each item is: its category and attributes, with confidences that can be acted on.

    Send a photo, a title, or both. A `decision` of `accept` means that, on held-out data, answers this sure were right
    at least `precision` of the time; send the rest to a person. An error inside one item fails that item alone; a
    request with exactly one item answers with that item's own status.
    """
    return await answer(request, CLASSIFY)
