"""A bundle opened as the service opens it: its decoding, runtime and answers, without its queue, threads and HTTP.

Owns one loaded version in this process. The ceiling and every peer go through it, so that only what is around it differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.engine.bundle import load_bundle
from app.engine.items import Classification, Item
from app.engine.loading import load_version
from app.engine.photo_decoder import PhotoDecoder
from app.engine.serving_plan import VersionKey
from app.engine.settings import EngineSettings
from app.engine.submission import ItemRow

MAX_BATCH_ITEMS = 64


class OpenedBundle:
    """On LiteRT with one runtime thread. `read` from any thread; `answer` from one at a time. Raises BundleError."""

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()
        settings = EngineSettings(
            models_dir=folder.parent.parent,
            runtime="litert",
            runtime_threads=1,
            decode_threads=1,
            max_batch_items=MAX_BATCH_ITEMS,
        )
        key = VersionKey(folder.parent.name, folder.name, load_bundle(folder).digest)
        self._loaded = load_version(key, settings)
        self._photos = PhotoDecoder(settings)
        self._attributes = tuple(self._loaded.answerer.attributes)

    @property
    def batch_items(self) -> int:
        """The batch size beyond which batching stops paying on this machine."""
        return self._loaded.plan.max_items

    def read(self, item: Item) -> ItemRow:
        return self._loaded.reader.read(item, "fused", self._photos)

    def answer(self, rows: Sequence[ItemRow]) -> list[Classification]:
        """In batches of at most `batch_items`."""
        answerer, answers = self._loaded.answerer, []
        for first in range(0, len(rows), self.batch_items):
            batch = rows[first : first + self.batch_items]
            outputs = self._loaded.runtime.run(
                {name: np.stack([row.values[name] for row in batch]) for name in batch[0].values}
            )
            scores = answerer.score(outputs, [row.inputs for row in batch])
            answers += [
                answerer.answer(outputs, scores, position, attributes=self._attributes, top_k=5, precision=0.98)
                for position in range(len(batch))
            ]
        return answers
