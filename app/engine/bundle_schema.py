"""The shapes of a bundle's JSON files (models/README.md), format 1.

Owns what each file may hold and how its parts must fit each other. Refuses to know files, hashes and what the numbers
are used for. Everything here raises pydantic's ValidationError, whose first error names the place.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Of a model, a space or a golden case: safe in a path, a URL and a log."""
Label = Annotated[str, Field(min_length=1, max_length=200)]
"""Of a label or an attribute: whatever a catalogue calls it."""
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Model):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class ImageInput(_Model):
    height: Annotated[int, Field(ge=8, le=1024)]
    width: Annotated[int, Field(ge=8, le=1024)]


class TextInput(_Model):
    max_tokens: Annotated[int, Field(ge=1, le=1024)]


class Inputs(_Model):
    image: ImageInput | None
    text: TextInput | None

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if self.image is None and self.text is None:
            raise ValueError("one of image and text must be given")
        return self


class Preprocessing(_Model):
    image: int
    text: int


class Manifest(_Model):
    format_version: Literal[1]
    name: Name
    version: Annotated[int, Field(ge=1)]
    created: str
    files: dict[str, FileEntry]
    inputs: Inputs
    preprocessing: Preprocessing
    logits_width: Annotated[int, Field(ge=1, le=100_000)]
    runtimes: Annotated[list[Literal["tensorflow", "litert"]], Field(min_length=1)]
    batch_buckets: Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=1, max_length=16)]
    space_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
    dimensions: Annotated[list[Annotated[int, Field(ge=1, le=8192)]], Field(min_length=1, max_length=32)]
    held_out: dict[str, Any] = {}
    training: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_buckets[0] != 1 or not _rises(self.batch_buckets):
            raise ValueError("batch_buckets must rise and start at 1")
        if not _rises(self.dimensions):
            raise ValueError("dimensions must rise")
        if len(set(self.runtimes)) != len(self.runtimes):
            raise ValueError("runtimes must not repeat")
        return self


class HierarchyHead(_Model):
    kind: Literal["hierarchy"]
    offset: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=1)]
    levels: Annotated[list[Label], Field(min_length=1)]
    paths: list[list[Label]]

    @property
    def attributes(self) -> list[str]:
        return self.levels

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.paths) != self.size or any(len(path) != len(self.levels) for path in self.paths):
            raise ValueError("a hierarchy needs `size` paths with one label per level")
        if len({tuple(path) for path in self.paths}) != self.size:
            raise ValueError("a hierarchy's paths must differ")
        return self


class FlatHead(_Model):
    kind: Literal["flat"]
    attribute: Label
    offset: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=1)]
    labels: list[Label]

    @property
    def attributes(self) -> list[str]:
        return [self.attribute]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.labels) != self.size or len(set(self.labels)) != self.size:
            raise ValueError("a flat head needs `size` different labels")
        return self


Head = Annotated[HierarchyHead | FlatHead, Field(discriminator="kind")]


class Labels(_Model):
    format_version: Literal[1]
    attributes: Annotated[list[Label], Field(min_length=1, max_length=256)]
    heads: Annotated[list[Head], Field(min_length=1)]
    applies: dict[str, list[bool]] = {}

    @property
    def logits_width(self) -> int:
        return sum(head.size for head in self.heads)

    @property
    def slices(self) -> list[slice]:
        """Each head's place in the logits."""
        return [slice(head.offset, head.offset + head.size) for head in self.heads]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        expected_offset = 0
        for head in self.heads:
            if head.offset != expected_offset:
                raise ValueError("heads must follow each other without gaps")
            expected_offset += head.size
        hierarchies = [head for head in self.heads if isinstance(head, HierarchyHead)]
        if len(hierarchies) > 1:
            raise ValueError("at most one hierarchy")
        attributes = [attribute for head in self.heads for attribute in head.attributes]
        if sorted(attributes) != sorted(self.attributes) or len(set(attributes)) != len(attributes):
            raise ValueError("attributes must be those of the heads, each once")
        for attribute, flags in self.applies.items():
            if attribute not in attributes or not hierarchies or len(flags) != hierarchies[0].size:
                raise ValueError("applies needs a known attribute and one flag per path of the hierarchy")
        return self


class PatternCalibration(_Model):
    temperature: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    thresholds: dict[str, list[tuple[Probability, Probability]]] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for pairs in self.thresholds.values():
            if not _rises([precision for precision, _ in pairs]):
                raise ValueError("thresholds must rise in precision")
        return self


class InDomain(_Model):
    min_logit: float | None


class Contradiction(_Model):
    cosine: float
    image_in_domain: float
    text_in_domain: float
    overlap: dict[str, float]
    sureness: dict[str, float] = {}
    bias: float


class Agreement(_Model):
    features: list[str]
    weights: list[float]
    bias: float
    conflict_below: dict[str, float] = {}
    contradiction: Contradiction | None = None
    # Of bundles calibrated before `contradiction` was there. Taken, and read no longer.
    contradicts_below: Probability = 0.0
    photo_sure_from: Probability = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.features) != len(self.weights):
            raise ValueError("agreement needs one weight per feature")
        return self


class Calibration(_Model):
    format_version: Literal[1]
    patterns: dict[Literal["both", "image", "text"], PatternCalibration]
    in_domain: dict[Literal["image", "text"], InDomain]
    agreement: Agreement | None


class Tolerance(_Model):
    min_cosine: Annotated[float, Field(ge=-1.0, le=1.0)]
    max_probability_gap: Probability
    top1_margin: Probability


class GoldenCase(_Model):
    name: Name
    photo: str | None = None
    title: str | None = None


class GoldenIndex(_Model):
    format_version: Literal[1]
    cases: Annotated[list[GoldenCase], Field(min_length=1, max_length=1024)]
    tolerance: dict[Literal["tensorflow", "litert"], Tolerance]


class Quality(RootModel[dict[str, Any]]):
    """Whatever was measured. Read by pydantic's parser, which takes neither halves of characters nor more than 200 levels, so
    that it can be written again as a part of an answer."""


def _rises(values: list[int] | list[float]) -> bool:
    return all(low < high for low, high in pairwise(values))
