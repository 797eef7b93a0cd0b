"""The bundle behind BentoML. `BENCHMARK_TUNING` holds the tuning as JSON.

What its settings mean here: `workers` are whole processes that share one socket; with batching, each makes batches of its
own (`batch_items` at most, `batch_latency_ms` is the target that its dispatcher refuses beyond). Batched methods take and
return lists. Access log and metrics are off, as its own advice for throughput has it.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any

import bentoml
from pydantic import BaseModel

from scripts.benchmark.peers.shared_model import SharedModel

TUNING = json.loads(os.environ["BENCHMARK_TUNING"])


class ProductItem(BaseModel):
    """A photo in base64 and a title."""

    image: str
    text: str


@bentoml.service(  # type: ignore[untyped-decorator,unused-ignore]
    workers=TUNING["workers"],
    traffic={"timeout": 60, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Classifier:
    """Two ways in: with BentoML's batching and without."""

    def __init__(self) -> None:
        self.model = SharedModel()
        self.lock = threading.Lock()

    @bentoml.api(  # type: ignore[untyped-decorator,unused-ignore]
        batchable=True,
        max_batch_size=max(2, TUNING["batch_items"]),  # it refuses less, also where nobody comes this way
        max_latency_ms=TUNING["batch_latency_ms"],
    )
    def classify_batch(self, items: list[ProductItem]) -> list[dict[str, Any]]:
        return self.model.answer([self.model.read(item.image, item.text) for item in items])

    @bentoml.api  # type: ignore[untyped-decorator,unused-ignore]
    def classify(self, image: str, text: str) -> dict[str, Any]:
        row = self.model.read(image, text)
        with self.lock:
            return self.model.answer([row])[0]
