"""What every peer calls: the engine's own decoding, base64, runtime and answers, so that only the servers differ.

Owns one loaded version of the bundle in this process. The environment says which: `BENCHMARK_BUNDLE`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from app.api.answers import render_classification
from app.engine.items import Item
from app.engine.registry import load_version
from app.engine.settings import EngineSettings
from app.engine.submission import ItemRow

# The decoder that `app.api.items` chose; that module itself needs the service's version of Starlette.
_BASE64 = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))
BUNDLE_VARIABLE = "BENCHMARK_BUNDLE"
MAX_BATCH_ITEMS = 64


class SharedModel:
    """The bundle on LiteRT with one runtime thread. Not thread-safe: one thread at a time may call `answer`."""

    def __init__(self) -> None:
        settings = EngineSettings(runtime="litert", runtime_threads=1, decode_threads=1, max_batch_items=MAX_BATCH_ITEMS)
        self._loaded = load_version(Path(os.environ[BUNDLE_VARIABLE]), settings)
        self._attributes = tuple(self._loaded.answerer.attributes)

    def read(self, image: str, text: str) -> ItemRow:
        """One row of model input from a photo in base64 and a title. From any thread."""
        return self._loaded.reader.read(Item(image=_BASE64.validate_strings(image), text=text), "fused")

    def answer(self, rows: Sequence[ItemRow]) -> list[dict[str, Any]]:
        """One answer per row, as the service renders it."""
        answers: list[dict[str, Any]] = []
        most = self._loaded.plan.max_items
        for first in range(0, len(rows), most):
            batch = rows[first : first + most]
            outputs = self._loaded.runtime.run(
                {name: np.stack([row.values[name] for row in batch]) for name in batch[0].values}
            )
            for index, row in enumerate(batch):
                classification = self._loaded.answerer.classify(
                    {name: values[index] for name, values in outputs.items()},
                    image_present="image" in row.inputs,
                    text_present="text" in row.inputs,
                    attributes=self._attributes,
                    top_k=5,
                    precision=0.98,
                )
                answers.append(render_classification(classification))
        return answers
