"""`GET /v1/models` and `GET /v1/models/{name}`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import Field

from app.api.answers import AnswerModel
from app.api.deps import EngineDep
from app.api.openapi import EXAMPLE_MODEL, problems, success
from app.engine.items import ModelDescription

router = APIRouter(tags=["Models"])


class VersionAnswer(AnswerModel):
    """One version; `reason` says why it was refused."""

    version: str
    state: Literal["loading", "ready", "refused", "draining"]
    is_default: bool
    reason: str | None = None


class HierarchyAnswer(AnswerModel):
    """`levels` from coarse to fine; `paths` are the legal combinations, one label per level."""

    levels: list[str]
    paths: list[list[str]]


class ModelDescriptionAnswer(AnswerModel):
    """What to know of a model before the first request; of its default version."""

    name: str
    is_default: bool
    version: str
    versions: list[VersionAnswer]
    inputs: list[Literal["image", "text"]]
    attributes: dict[str, list[str]] = Field(description="Every attribute with all its labels.")
    hierarchy: HierarchyAnswer | None = None
    space_id: str
    dimensions: list[int] = Field(description="Legal lengths of an embedding.")
    limits: dict[str, int] = Field(description="Input limits, units in the names.")
    quality: dict[str, Any] = Field(description="Measured on the test split.")


class ModelListAnswer(AnswerModel):
    """All models."""

    models: list[ModelDescriptionAnswer]


def _render(model: ModelDescription) -> ModelDescriptionAnswer:
    return ModelDescriptionAnswer(
        name=model.name,
        is_default=model.is_default,
        version=model.version,
        versions=[
            VersionAnswer(version=v.version, state=v.state, is_default=v.is_default, reason=v.reason) for v in model.versions
        ],
        inputs=list(model.inputs),
        attributes={name: list(labels) for name, labels in model.attributes.items()},
        hierarchy=HierarchyAnswer(levels=list(model.hierarchy), paths=[list(path) for path in model.hierarchy_paths])
        if model.hierarchy
        else None,
        space_id=model.space_id,
        dimensions=list(model.dimensions),
        limits=dict(model.limits),
        quality=dict(model.quality),
    )


@router.head("/v1/models", include_in_schema=False, response_model_exclude_none=True)
@router.get(
    "/v1/models",
    summary="List the models",
    response_model_exclude_none=True,
    responses=success({"models": [EXAMPLE_MODEL]}) | problems("common"),
)
async def list_models(engine: EngineDep) -> ModelListAnswer:
    """List every model: its versions and their state, attributes, labels, limits and measured quality."""
    return ModelListAnswer(models=[_render(model) for model in engine.models()])


@router.head("/v1/models/{name}", include_in_schema=False, response_model_exclude_none=True)
@router.get(
    "/v1/models/{name}",
    summary="Describe one model",
    response_model_exclude_none=True,
    responses=success(EXAMPLE_MODEL) | problems("common", "unknown_model"),
)
async def get_model(
    name: Annotated[str, Path(description="Name of the model.", examples=["fashion"])], engine: EngineDep
) -> ModelDescriptionAnswer:
    """Describe one model."""
    return _render(engine.describe(name))
