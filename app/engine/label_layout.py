"""Where in a model's logits each attribute is.

Owns `labels.json` made ready for arithmetic: slices, label names, the hierarchy's paths, which attributes apply to what.
Refuses to know calibration and decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AttributeLayout:
    """Where an attribute's probabilities come from: a slice of the logits, summed into labels where `members` is given.

    `members` is float64[size, labels], 1 where a path of the hierarchy belongs to the label.
    """

    name: str
    labels: tuple[str, ...]
    offset: int
    size: int
    level: int | None = None
    members: Floats | None = None


class LabelLayout:
    """`labels.json`, made ready for arithmetic."""

    def __init__(self, labels: Mapping[str, Any]) -> None:
        self.hierarchy: tuple[str, ...] = ()
        self.hierarchy_paths: tuple[tuple[str, ...], ...] = ()
        layouts: dict[str, AttributeLayout] = {}
        for head in labels["heads"]:
            offset, size = int(head["offset"]), int(head["size"])
            if head["kind"] == "hierarchy":
                self.hierarchy = tuple(head["levels"])
                self.hierarchy_paths = tuple(tuple(path) for path in head["paths"])
                for level, name in enumerate(self.hierarchy):
                    names = tuple(dict.fromkeys(path[level] for path in self.hierarchy_paths))
                    index = [names.index(path[level]) for path in self.hierarchy_paths]
                    layouts[name] = AttributeLayout(name, names, offset, size, level, np.eye(len(names))[index])
            else:
                name = head["attribute"]
                layouts[name] = AttributeLayout(name, tuple(head["labels"]), offset, size)
        self.attributes: tuple[str, ...] = tuple(labels["attributes"])
        self.layouts: Mapping[str, AttributeLayout] = {name: layouts[name] for name in self.attributes}
        self.applies: Mapping[str, Floats] = {
            name: np.asarray(flags, np.float64) for name, flags in labels.get("applies", {}).items()
        }
        self.answered_levels: tuple[str, ...] = tuple(name for name in self.hierarchy if name in self.layouts)
        """From coarse to fine."""
        self.level_rows: list[int] = [self.attributes.index(name) for name in self.answered_levels]
        """Their places among the attributes."""
        # For every level but the finest: the label of each of its child's labels.
        self.parent_label: dict[str, dict[str, str]] = {
            child: {path[level + 1]: path[level] for path in self.hierarchy_paths}
            for level, child in enumerate(self.hierarchy[1:])
        }

    def label_of_path(self) -> NDArray[np.int64]:
        """int64[paths, answered levels]."""
        found = [self.layouts[name].members for name in self.answered_levels]
        columns = [members.argmax(axis=1) for members in found if members is not None]
        return np.stack(columns, axis=1) if columns else np.zeros((0, 0), np.int64)

    def probabilities(self, logits: NDArray[Any], attribute: str, temperature: float) -> Floats:
        """Calibrated probabilities float64[..., labels] of one attribute from logits float32[..., L]."""
        layout = self.layouts[attribute]
        scaled = logits[..., layout.offset : layout.offset + layout.size].astype(np.float64) / temperature
        scaled -= scaled.max(axis=-1, keepdims=True)
        np.exp(scaled, out=scaled)
        scaled /= scaled.sum(axis=-1, keepdims=True)
        return scaled if layout.members is None else np.asarray(scaled @ layout.members)

    def best_labels(self, logits: NDArray[Any], attribute: str) -> NDArray[np.int64]:
        """int64[...]: index of the answered label; in a hierarchy that of the best path, so that levels never clash."""
        layout = self.layouts[attribute]
        best = logits[..., layout.offset : layout.offset + layout.size].argmax(axis=-1)
        if layout.members is None:
            return np.asarray(best)
        return np.asarray(layout.members.argmax(axis=1)[best])
