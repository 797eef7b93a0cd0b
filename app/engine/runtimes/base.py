"""What a runtime is: one interface over the libraries that execute a model.

Owns the `Runtime` protocol, the names and shapes of the signature (models/README.md), and padding to batch buckets.
Refuses to know any library, bundles' other files, queues and HTTP.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.engine.errors import BundleError

SIGNATURE_KEY = "serving_default"
INPUT_NAMES = ("image", "token_ids", "image_present", "text_present")
LOGITS_NAMES = ("fused_logits", "image_logits", "text_logits")
EMBEDDING_NAMES = ("fused_embedding", "image_embedding", "text_embedding")
IN_DOMAIN_NAMES = ("image_in_domain", "text_in_domain")
OUTPUT_NAMES = LOGITS_NAMES + EMBEDDING_NAMES + IN_DOMAIN_NAMES

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Where a model's files are and the shapes of its signature. `batch_buckets` rise and start at 1."""

    folder: Path
    image_height: int
    image_width: int
    max_tokens: int
    logits_width: int
    embedding_width: int
    batch_buckets: tuple[int, ...]

    def input_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Per input, the shape of one item and the dtype."""
        return {
            "image": ((self.image_height, self.image_width, 3), np.dtype(np.uint8)),
            "token_ids": ((self.max_tokens,), np.dtype(np.int32)),
            "image_present": ((), np.dtype(np.bool_)),
            "text_present": ((), np.dtype(np.bool_)),
        }

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Per output, the shape of one item; all are float32."""
        return (
            dict.fromkeys(LOGITS_NAMES, (self.logits_width,))
            | dict.fromkeys(EMBEDDING_NAMES, (self.embedding_width,))
            | dict.fromkeys(IN_DOMAIN_NAMES, ())
        )

    def blank_batch(self, items: int) -> dict[str, NDArray[Any]]:
        """Inputs of `items` items that have neither photo nor title."""
        return {name: np.zeros((items, *shape), dtype) for name, (shape, dtype) in self.input_shapes().items()}


class Runtime(Protocol):
    """A loaded model. Not thread-safe: one thread at a time may call it."""

    @property
    def name(self) -> str:
        """`tensorflow` or `litert`."""

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes that are executed; others are padded up to the next."""

    def run(self, batch: Arrays) -> dict[str, NDArray[np.float32]]:
        """Answer the inputs (named as in models/README.md, B rows each, 1 <= B <= buckets[-1]) with B rows per output.

        Raises ValueError for a batch size outside the buckets, and whatever the library raises.
        """

    def keep_buckets(self, largest: int) -> None:
        """Free what only buckets above `largest` need; they are gone from `buckets`."""

    def close(self) -> None:
        """Free everything; the runtime must not be used again."""


def pad_to_bucket(batch: Arrays, buckets: tuple[int, ...]) -> tuple[int, Arrays]:
    """Zero rows appended up to the next bucket. Returns the bucket and the padded inputs."""
    items = len(batch["image_present"])
    if not 1 <= items <= buckets[-1]:
        raise ValueError(f"a batch has 1 to {buckets[-1]} items, not {items}")
    bucket = buckets[bisect_left(buckets, items)]
    if bucket == items:
        return bucket, batch
    padded = {}
    for name, rows in batch.items():
        padded[name] = np.zeros((bucket, *rows.shape[1:]), rows.dtype)
        padded[name][:items] = rows
    return bucket, padded


def check_names(inputs: Iterable[str], outputs: Iterable[str], *, file: str) -> None:
    """Raise BundleError unless the names are those of the signature."""
    for kind, found, wanted in (
        ("inputs", set(inputs), set(INPUT_NAMES)),
        ("outputs", set(outputs), set(OUTPUT_NAMES)),
    ):
        if found != wanted:
            raise BundleError(f"{file}: the signature's {kind} are {sorted(found)}, not {sorted(wanted)}")


def check_outputs(outputs: Arrays, spec: ModelSpec, *, items: int, file: str) -> None:
    """Raise BundleError unless every output of `items` items has the shape and dtype of the signature."""
    for name, shape in spec.output_shapes().items():
        found = outputs[name]
        if found.shape != (items, *shape) or found.dtype != np.float32:
            raise BundleError(f"{file}: output {name} is {found.dtype}{list(found.shape)}, not float32{[items, *shape]}")
