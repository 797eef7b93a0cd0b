"""What requests look like: the envelope, its options, an item.

Owns names, bounds, defaults and their descriptions (they are the user's documentation). Bodies are parsed by hand and
checked against these; nothing of it knows the engine's rules (which models, attributes and lengths exist).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.fetch.photo_url import MAX_URL_CHARS

_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _whole(value: Any) -> Any:
    """5.0 is a whole number too (JSON Schema, `integer`)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


ModelName = Annotated[str, Field(min_length=1, max_length=64, examples=["fashion"])]
AttributeName = Annotated[str, Field(min_length=1, max_length=128)]


class ModelOptions(BaseModel):
    """Options that every request may have."""

    model_config = _STRICT

    model: ModelName | None = Field(None, description="Model to ask; the service's default when absent.")
    version: str | None = Field(
        None, pattern=r"^[1-9][0-9]{0,8}$", description="Version of the model; its default when absent.", examples=["2"]
    )


class ClassifyOptions(ModelOptions):
    """Options of a classification."""

    attributes: Annotated[list[AttributeName], Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="Attributes to answer; all of the model's when absent.",
        examples=[["articleType", "baseColour"]],
    )
    top_k: int = Field(5, ge=1, le=100, description="Most candidates per attribute.")
    precision: float = Field(
        0.98,
        ge=0.5,
        le=0.999,
        description="Share of accepted answers that must be right; decides between `accept` and `review`.",
    )

    _whole = field_validator("top_k", mode="before")(_whole)


class EmbedOptions(ModelOptions):
    """Options of an embedding."""

    modality: Literal["fused", "image", "text"] | None = Field(
        None, description="Which embedding; all live in one space. When absent, from everything the item holds."
    )
    dimensions: int | None = Field(
        None, ge=1, le=65536, description="Length, one of the model's listed prefixes; the longest when absent."
    )
    encoding: Literal["float", "base64"] = Field(
        "float", description="`float`: a JSON array. `base64`: little-endian float32, a quarter of the size."
    )
    space: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="`space_id` that your index was built with; a version that serves it answers, else 409.",
    )

    _whole = field_validator("dimensions", mode="before")(_whole)


class ItemRequest(BaseModel):
    """One shop item: at least one of `image` (or `image_url`) and `text`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._:-]{1,128}$",
        description="Your name for the item; comes back with its result.",
        examples=["sku-1"],
    )
    image: str | None = Field(
        None,
        description="Photo (JPEG, PNG or WebP) in base64, or as a `data:` URI. URL-safe base64 and missing padding are fine.",
    )
    text: str | None = Field(None, description="Title.", examples=["Puma Men Grey T-shirt"])
    image_url: str | None = Field(
        None,
        max_length=MAX_URL_CHARS,
        description="Address of a photo that the service fetches, in place of `image`: `https`, without user name and port. "
        "Refused unless the operator has allowed its host. Not in forms.",
    )


class ClassifyEnvelope(ClassifyOptions):
    """What is checked at once; each item is then checked on its own, so that one bad item fails alone."""

    items: Annotated[list[Any], Field(min_length=1)]


class EmbedEnvelope(EmbedOptions):
    """As `ClassifyEnvelope`, for embeddings."""

    items: Annotated[list[Any], Field(min_length=1)]


class ClassifyRequest(ClassifyOptions):
    """Body of `POST /v1/classify`."""

    items: Annotated[list[ItemRequest], Field(min_length=1, description="Items to classify; answered one by one.")]


class EmbedRequest(EmbedOptions):
    """Body of `POST /v1/embed`."""

    items: Annotated[list[ItemRequest], Field(min_length=1, description="Items to embed; answered one by one.")]


NUMBERS = frozenset({"top_k", "precision", "dimensions"})
"""Options that are numbers; in forms and queries all is text."""
ITEM_FIELDS = frozenset(ItemRequest.model_fields)
