"""What is to be served, as a value: it is compared, sent to workers, and described to clients.

Owns `ServingPlan` and its form as JSON. Refuses to know how a plan comes about and who carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.engine.items import ModelRef


@dataclass(frozen=True, slots=True, order=True)
class VersionKey:
    """One version's very bytes: `digest` is the SHA-256 of its manifest, which stands for all of them, so that a folder
    whose content was replaced is another version under the same number."""

    name: str
    version: str
    digest: str

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.name, self.version)


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """Why a version is not served, in one line. `is_temporary`: the fault is the machine's, not the bundle's."""

    key: VersionKey
    reason: str
    is_temporary: bool = False


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """`models`: the versions in memory by model, the default version first. `refused`: for the description alone."""

    generation: int
    default_model: str
    models: Mapping[str, tuple[VersionKey, ...]]
    refused: tuple[Refusal, ...] = field(default=())
    _versions: tuple[VersionKey, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = sorted(self.models, key=lambda name: (name != self.default_model, name))
        object.__setattr__(self, "_versions", tuple(key for name in names for key in self.models[name]))

    def versions(self) -> tuple[VersionKey, ...]:
        """Every version, the default model's first, of each model the default version first. Each request asks."""
        return self._versions

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "generation": self.generation,
            "default_model": self.default_model,
            "models": {name: [key_document(key) for key in keys] for name, keys in self.models.items()},
            "refused": [refusal_document(refusal) for refusal in self.refused],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ServingPlan:
        """The inverse of `document`."""
        return cls(
            generation=document["generation"],
            default_model=document["default_model"],
            models={name: tuple(VersionKey(*key) for key in keys) for name, keys in document["models"].items()},
            refused=tuple(refusal_from_document(refusal) for refusal in document["refused"]),
        )


class Generation(Protocol):
    """The number of the plan that requests are answered by. With several workers all read the same one."""

    @property
    def value(self) -> int: ...


@dataclass(slots=True)
class LocalGeneration:
    """The generation of a process that decides for itself."""

    value: int = 0


def key_document(key: VersionKey) -> list[str]:
    return [key.name, key.version, key.digest]


def refusal_document(refusal: Refusal) -> list[Any]:
    return [key_document(refusal.key), refusal.reason, refusal.is_temporary]


def refusal_from_document(document: list[Any]) -> Refusal:
    return Refusal(VersionKey(*document[0]), document[1], document[2])
