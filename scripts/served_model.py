"""A bundle opened the way the service opens it, for whole arrays at a time.

Owns running many rows through a runtime in batches. What is evaluated is what is served: the same verification, the same
runtime, the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from app.engine.answers import Answerer
from app.engine.bundle import Bundle, load_bundle
from app.engine.runtimes import RuntimeName, open_runtime
from app.engine.settings import usable_cpus
from app.engine.text import TitleTokenizer

Outputs = dict[str, NDArray[np.float32]]


class ServedModel:
    """Raises BundleError when the service would refuse the bundle."""

    def __init__(self, folder: Path, *, runtime: RuntimeName = "litert", threads: int = 0) -> None:
        # The bundle checks its name against its folders, which "." would hide.
        self.bundle: Bundle = load_bundle(folder.resolve())
        self.spec = self.bundle.spec()
        self.runtime = open_runtime(runtime, self.spec, threads=threads or usable_cpus())
        self.answerer = Answerer(self.bundle.labels_json, self.bundle.calibration_json)
        self.tokenizer: TitleTokenizer | None = None
        if self.bundle.tokenizer_json is not None:
            self.tokenizer = TitleTokenizer.from_json(self.bundle.tokenizer_json, self.spec.max_tokens)

    @property
    def reads_photos(self) -> bool:
        return self.bundle.manifest.inputs.image is not None

    @property
    def reads_titles(self) -> bool:
        return self.tokenizer is not None

    def run(
        self,
        photos: NDArray[np.uint8] | None,
        titles: Sequence[str] | None,
        *,
        photo_present: NDArray[np.bool_] | None = None,
        progress: str | None = None,
    ) -> Outputs:
        """All outputs for N rows. `photos` uint8[N, H, W, 3] or None, `titles` N strings or None ("" is absent).
        `progress` names the bar; None shows none."""
        count = len(photos) if photos is not None else len(titles or ())
        step = self.runtime.buckets[-1]
        parts: list[Outputs] = []
        with tqdm(total=count, desc=progress, unit="item", disable=progress is None) as bar:
            for start in range(0, count, step):
                stop = min(count, start + step)
                batch = self.spec.blank_batch(stop - start)
                if photos is not None and self.reads_photos:
                    batch["image"] = np.ascontiguousarray(photos[start:stop])
                    batch["image_present"][:] = True if photo_present is None else photo_present[start:stop]
                if titles is not None and self.tokenizer is not None:
                    batch["token_ids"] = self.tokenizer.encode_many(titles[start:stop])
                    batch["text_present"] = (batch["token_ids"] != 0).any(axis=1)
                parts.append({name: np.array(value) for name, value in self.runtime.run(batch).items()})
                bar.update(stop - start)
        if not parts:
            raise ValueError("there are no rows to run")
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def row(outputs: Outputs, index: int) -> dict[str, Any]:
    """One item's outputs."""
    return {name: value[index] for name, value in outputs.items()}
