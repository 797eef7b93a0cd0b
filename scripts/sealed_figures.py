"""The last step of every bundle that is made: its figures and its model card, measured on what will be served, and the seal.

Owns the order: a bundle is sealed to be loaded, evaluated as the service loads it, and sealed again with what that gave.
Refuses to know how the bundle came to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.config import RunConfig
from scripts.data.catalogue import Catalogue
from scripts.evaluate import evaluate_bundle, runtime_parity
from scripts.evaluation.figures import Quality
from scripts.export import seal, write_json
from scripts.model_card import model_card
from scripts.served_model import ServedModel


def seal_with_figures(
    folder: Path, manifest: Mapping[str, Any], *, config: RunConfig, catalogue: Catalogue, split: str
) -> tuple[ServedModel, Quality]:
    """Add `metrics.json`, `MODEL_CARD.md` and the manifest to a folder that has all the rest. Returns the bundle as it is
    served by default, on LiteRT, and its figures on `split`."""
    seal(folder, manifest)
    served = ServedModel(folder)
    quality = evaluate_bundle(served, catalogue, split=split)
    quality["litert"] = runtime_parity(ServedModel(folder, runtime="tensorflow"), served, catalogue, split=split)
    write_json(folder / "metrics.json", quality)
    (folder / "MODEL_CARD.md").write_text(model_card(config, manifest, quality, catalogue.report.to_json()))
    seal(folder, manifest)
    return served, quality
