"""What every peer calls: the engine's own decoding, base64, runtime and answers, so that only the servers differ.

Owns one opened bundle in this process. The environment says which: `BENCHMARK_BUNDLE`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.api.answers import render_classification
from app.api.base64_text import decode_base64
from app.engine.items import Item
from app.engine.submission import ItemRow
from scripts.benchmark.opened_bundle import MAX_BATCH_ITEMS, OpenedBundle

__all__ = ["BUNDLE_VARIABLE", "MAX_BATCH_ITEMS", "SharedModel"]

BUNDLE_VARIABLE = "BENCHMARK_BUNDLE"


class SharedModel:
    """The bundle on LiteRT with one runtime thread. Not thread-safe: one thread at a time may call `answer`."""

    def __init__(self) -> None:
        self._bundle = OpenedBundle(Path(os.environ[BUNDLE_VARIABLE]))

    def read(self, image: str, text: str) -> ItemRow:
        """One row of model input from a photo in base64 and a title. From any thread."""
        return self._bundle.read(Item(image=decode_base64(image), text=text))

    def answer(self, rows: Sequence[ItemRow]) -> list[dict[str, Any]]:
        """One answer per row, as the service renders it."""
        return [render_classification(classification) for classification in self._bundle.answer(rows)]
