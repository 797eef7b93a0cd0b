"""What answers look like: schemas for the documentation, and the functions that render the engine's nouns.

Owns the wire format. Rendering builds plain dicts that pydantic-core writes as JSON (and `app.api.answer_text` the bulk of a
classification); the models are the same format as documentation, and a test holds the two together.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.engine.items import Agreement, AttributeAnswer, Candidate, Classification, Conflict, Embedding, ModelRef

Input = Literal["image", "text"]
Confidence = float


class AnswerModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelAnswer(AnswerModel):
    """The model that answered."""

    name: str
    version: str


class CandidateAnswer(AnswerModel):
    """A label and its calibrated confidence."""

    label: str
    confidence: float = Field(ge=0, le=1)


class AttributeResult(AnswerModel):
    """The answer for one attribute. `decision`: `accept` it, `review` it, `abstain` (like nothing the model has
    learned), or `not_applicable` (such items do not have the attribute; `label` is then null)."""

    label: str | None
    confidence: float = Field(ge=0, le=1)
    decision: Literal["accept", "review", "abstain", "not_applicable"]
    candidates: list[CandidateAnswer] = Field(
        description="The label first, then the others by confidence. Of a coarse level the first may have less than the "
        "second: it belongs to the best path through all levels."
    )


class ConflictAnswer(AnswerModel):
    """An attribute on which photo and title, each read alone, say different things."""

    attribute: str
    image: CandidateAnswer
    text: CandidateAnswer


class AgreementAnswer(AnswerModel):
    """Whether photo and title show one product. `score` is a calibrated probability."""

    score: float = Field(ge=0, le=1)
    conflicts: list[ConflictAnswer]


class FieldProblem(AnswerModel):
    """One finding. `pointer` (RFC 6901) leads into the body, or names an option of a form or query."""

    pointer: str
    detail: str


class ItemProblem(AnswerModel):
    """Why an item failed; `code` is stable."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] | None = None


class ProblemDocument(ItemProblem):
    """RFC 9457 problem document. `type` is a page of this service that says what to do."""

    request_id: str


class FailedItem(AnswerModel):
    """The result of an item that failed; its neighbours are not affected."""

    index: int
    id: str | None = None
    status: Literal["error"]
    error: ItemProblem


class ClassifiedItem(AnswerModel):
    """What the item is. `inputs` says what the answer was computed from; `agreement` comes when photo and title were both read,
    also where the title, as another product's, was then left out of the answer and of `inputs`."""

    index: int
    id: str | None = None
    status: Literal["ok"]
    inputs: list[Input]
    attributes: dict[str, AttributeResult]
    agreement: AgreementAnswer | None = None


class EmbeddedItem(AnswerModel):
    """The item's embedding, of unit length: an array of numbers, or base64 of little-endian float32."""

    index: int
    id: str | None = None
    status: Literal["ok"]
    inputs: list[Input]
    embedding: list[float] | str


class ClassifyResponse(AnswerModel):
    """Results in the order of the request's items."""

    model: ModelAnswer
    results: list[ClassifiedItem | FailedItem]


class EmbedResponse(AnswerModel):
    """Results in the order of the request's items. Compare embeddings only within one `space_id`."""

    model: ModelAnswer
    space_id: str
    dimensions: int
    results: list[EmbeddedItem | FailedItem]


class ClassifyLine(ClassifiedItem):
    """One line of a bulk answer."""

    model: ModelAnswer


class EmbedLine(EmbeddedItem):
    """One line of a bulk answer."""

    model: ModelAnswer
    space_id: str
    dimensions: int


def render_model(model: ModelRef) -> dict[str, Any]:
    return {"name": model.name, "version": model.version}


def render_classification(answer: Classification) -> dict[str, Any]:
    """The part of a result that says what the item is; confidences have 6 digits."""
    rendered: dict[str, Any] = {"inputs": answer.inputs, "attributes": render_attributes(answer.attributes)}
    if answer.agreement is not None:
        rendered["agreement"] = render_agreement(answer.agreement)
    return rendered


def render_attributes(answers: Mapping[str, AttributeAnswer]) -> dict[str, Any]:
    """See `app.api.answer_text`, which is how the service writes them."""
    return {
        name: {
            "label": answer.label,
            "confidence": round(answer.confidence, 6),
            "decision": answer.decision,
            "candidates": [_render_candidate(candidate) for candidate in answer.candidates],
        }
        for name, answer in answers.items()
    }


def render_agreement(agreement: Agreement) -> dict[str, Any]:
    return {
        "score": round(agreement.score, 6),
        "conflicts": [_render_conflict(conflict) for conflict in agreement.conflicts],
    }


def render_embedding(answer: Embedding, *, as_base64: bool) -> dict[str, Any]:
    """The part of a result that holds the embedding. A float is exactly the float32 that base64 carries."""
    vector: Any = _little_endian_base64(answer.vector) if as_base64 else answer.vector.tolist()
    return {"inputs": answer.inputs, "embedding": vector}


def _render_candidate(candidate: Candidate) -> dict[str, Any]:
    return {"label": candidate.label, "confidence": round(candidate.confidence, 6)}


def _render_conflict(conflict: Conflict) -> dict[str, Any]:
    return {
        "attribute": conflict.attribute,
        "image": _render_candidate(conflict.image),
        "text": _render_candidate(conflict.text),
    }


def _little_endian_base64(vector: array[float]) -> str:
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode("ascii")
