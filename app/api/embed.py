"""`POST /v1/embed`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api.answers import EmbedResponse
from app.api.exchange import answer
from app.api.openapi import embed_documentation, problems
from app.api.operations import EMBED

router = APIRouter(tags=["Recognition"])


@router.post(
    "/v1/embed",
    summary="Embed items",
    response_model=EmbedResponse,
    responses=problems("recognition", "space_conflict", "unknown_dimensions"),
    openapi_extra=embed_documentation(),
)
async def embed(request: Request) -> Response:
    """Turn each item into a vector of unit length, for storing and searching.

    Photos, titles and both together live in one space, named by `space_id`: compare vectors of the same space only, and
    send it back as `space` so that a newer model cannot silently answer with another. Any listed `dimensions` is a
    prefix of the longest, re-normalised.
    """
    return await answer(request, EMBED)
