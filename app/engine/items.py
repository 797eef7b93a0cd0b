"""The nouns of the engine: what goes in and what comes out.

Owns the frozen dataclasses that cross the engine's boundary. Refuses to know HTTP, JSON, tensors and files, so that
any front end (REST, a queue, a command line) can speak them.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from app.engine.errors import ItemError

Modality = Literal["image", "text"]
EmbeddingModality = Literal["fused", "image", "text"]
Pattern = Literal["both", "image", "text"]
"""Which inputs an answer was computed from; calibration is kept per pattern."""
Decision = Literal["accept", "review", "abstain", "not_applicable"]

PhotoSource = Callable[[], Awaitable[bytes]]
"""Fetches an encoded photo. Raises ItemError. Cancelled when nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class Item:
    """One shop item: an encoded photo (JPEG, PNG or WebP bytes), a title, or both. `image_source` stands for a photo that is
    still elsewhere; it is called once the item is admitted, where something reads its photo."""

    image: bytes | None = None
    text: str | None = None
    image_source: PhotoSource | None = None


class Candidate(NamedTuple):
    """A label with its calibrated confidence in [0, 1]. A tuple, since an answer has dozens and they are made faster."""

    label: str
    confidence: float


class AttributeAnswer(NamedTuple):
    """The answer for one attribute. A tuple, as `Candidate` is.

    `label` is None and `candidates` empty when `decision` is `not_applicable`; `confidence` is then the probability
    that the attribute does not belong to the item.
    """

    label: str | None
    confidence: float
    decision: Decision
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """An attribute on which the photo and the title, each read alone, say different things."""

    attribute: str
    image: Candidate
    text: Candidate


@dataclass(frozen=True, slots=True)
class Agreement:
    """`score`: calibrated probability that the photo and the title show one product."""

    score: float
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True)
class Classification:
    """What one item is. `inputs` names the modalities that the answer was computed from."""

    inputs: tuple[Modality, ...]
    attributes: Mapping[str, AttributeAnswer]
    agreement: Agreement | None


@dataclass(frozen=True, slots=True)
class Embedding:
    """A unit-length vector, `vector` being float32[D] (stdlib array, so no front end needs numpy)."""

    inputs: tuple[Modality, ...]
    vector: array[float]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model answered. `version` is the version folder's name, a decimal integer."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """A version that stays. `is_short`: whether its queue is, for work that can wait."""

    model: ModelRef
    is_short: Callable[[], bool]


@dataclass(slots=True)
class Timing:
    """Milliseconds a request spent decoding photos, waiting in the queue and in the runtime (each the longest of its
    items, since items of a request run side by side)."""

    decode_ms: float = 0.0
    queue_ms: float = 0.0
    model_ms: float = 0.0


ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Reply(Generic[ResultT]):
    """Results in the order of the request's items; a failed item is an `ItemError` in its place, never raised."""

    model: ModelRef
    results: Sequence[ResultT | ItemError]
    timing: Timing


@dataclass(frozen=True, slots=True)
class EmbeddingReply(Reply[Embedding]):
    """`Reply` with the identity of the vector space and the length of its vectors."""

    space_id: str = ""
    dimensions: int = 0


VersionState = Literal["loading", "ready", "refused", "draining"]


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """One version of a model. `reason` says in one line why it was refused."""

    version: str
    state: VersionState
    is_default: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything a client may want to know before its first request; of the default version."""

    name: str
    is_default: bool
    version: str
    versions: tuple[VersionDescription, ...]
    inputs: tuple[Modality, ...]
    attributes: Mapping[str, tuple[str, ...]]
    hierarchy: tuple[str, ...]
    hierarchy_paths: tuple[tuple[str, ...], ...]
    space_id: str
    dimensions: tuple[int, ...]
    limits: Mapping[str, int]
    quality: Mapping[str, Any] = field(default_factory=dict)
