"""Logits to answers: calibrated confidences, decisions, agreement.

Owns what a merchandiser acts on. All parameters come from the bundle (`labels.json`, `calibration.json`); nothing here
was tuned by hand. Refuses to know runtimes, batches and HTTP. The offline calibration uses the same functions, so what
was calibrated is what is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.items import (
    Agreement,
    AttributeAnswer,
    Candidate,
    Classification,
    Conflict,
    Decision,
    Modality,
    Pattern,
)

Floats = NDArray[np.float64]
PATTERNS: tuple[Pattern, ...] = ("both", "image", "text")
OUTPUT_OF_PATTERN: Mapping[Pattern, str] = {"both": "fused", "image": "image", "text": "text"}
"""Prefix of the network's outputs that a pattern's answers are computed from."""


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
        # For every level but the finest: the label of each of its child's labels.
        self.parent_label: dict[str, dict[str, str]] = {
            child: {path[level + 1]: path[level] for path in self.hierarchy_paths}
            for level, child in enumerate(self.hierarchy[1:])
        }

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

    def not_applicable(self, path_probabilities: Floats, attribute: str) -> Floats | float:
        """Probability [...] that the attribute does not belong to the item, from those of the finest level [..., paths]."""
        flags = self.applies.get(attribute)
        return 0.0 if flags is None else np.asarray(path_probabilities @ (1.0 - flags))


class Answerer:
    """Answers of one bundle; built once, called for every item."""

    def __init__(self, labels: Mapping[str, Any], calibration: Mapping[str, Any]) -> None:
        self.layout = LabelLayout(labels)
        self.attributes = self.layout.attributes
        self.hierarchy = self.layout.hierarchy
        self.hierarchy_paths = self.layout.hierarchy_paths
        self.attribute_labels: Mapping[str, tuple[str, ...]] = {
            name: layout.labels for name, layout in self.layout.layouts.items()
        }
        self._temperature: dict[Pattern, dict[str, float]] = {
            pattern: {
                name: float(calibration["patterns"].get(pattern, {}).get("temperature", {}).get(name, 1.0))
                for name in self.attributes
            }
            for pattern in PATTERNS
        }
        self._thresholds: dict[Pattern, dict[str, list[tuple[float, float]]]] = {
            pattern: {
                name: sorted((float(p), float(c)) for p, c in pairs)
                for name, pairs in calibration["patterns"].get(pattern, {}).get("thresholds", {}).items()
            }
            for pattern in PATTERNS
        }
        self._min_logit: dict[Modality, float | None] = {}
        for modality in ("image", "text"):
            limit = (calibration.get("in_domain", {}).get(modality) or {}).get("min_logit")
            self._min_logit[modality] = None if limit is None else float(limit)
        self._agreement: Mapping[str, Any] | None = calibration.get("agreement")

    def classify(
        self,
        outputs: Mapping[str, NDArray[Any]],
        *,
        image_present: bool,
        text_present: bool,
        attributes: Sequence[str],
        top_k: int,
        precision: float,
    ) -> Classification:
        """The answer for one item from its rows of the network's outputs (`*_logits` float32[L], scalars).

        A title that looks like nothing the model has read is left out when there is a photo: the answer, and `inputs`,
        are then the photo's alone. An unfamiliar photo, or an unfamiliar title alone, makes every decision `abstain`.
        """
        image_familiar = image_present and self.is_familiar(outputs, "image")
        text_familiar = text_present and self.is_familiar(outputs, "text")
        inputs: tuple[Modality, ...]
        pattern: Pattern
        if image_present and text_present and (text_familiar or not image_familiar):
            pattern, inputs = "both", ("image", "text")
        elif image_present:
            pattern, inputs = "image", ("image",)
        else:
            pattern, inputs = "text", ("text",)
        abstains = not (image_familiar if image_present else text_familiar)
        logits = outputs[f"{OUTPUT_OF_PATTERN[pattern]}_logits"]
        answers = self._answers(logits, pattern, attributes, top_k, precision, abstains)
        agreement = self.agreement(outputs) if image_present and text_present else None
        return Classification(inputs, answers, agreement)

    def is_familiar(self, outputs: Mapping[str, NDArray[Any]], modality: Modality) -> bool:
        """Whether the photo or the title looks like the training data. True where there was too little data to tell."""
        limit = self._min_logit[modality]
        return limit is None or bool(outputs[f"{modality}_in_domain"] >= limit)

    def temperature(self, pattern: Pattern, attribute: str) -> float:
        return self._temperature[pattern][attribute]

    def min_confidence(self, pattern: Pattern, attribute: str, precision: float) -> float | None:
        """Least confidence to accept at the next stored precision that is at least as strict; None: never accept."""
        for stored, confidence in self._thresholds[pattern].get(attribute, ()):
            if stored >= precision - 1e-9:
                return confidence
        return None

    def _answers(
        self,
        logits: NDArray[Any],
        pattern: Pattern,
        attributes: Sequence[str],
        top_k: int,
        precision: float,
        abstains: bool,
    ) -> dict[str, AttributeAnswer]:
        levels = [name for name in self.hierarchy if name in self.attributes]
        wanted = set(attributes)
        deepest = max((self.hierarchy.index(name) for name in wanted if name in self.hierarchy), default=-1)
        answers: dict[str, AttributeAnswer] = {}
        parent: str | None = None
        parent_accepted = True
        # From coarse to fine: a child is never accepted above a parent in review, and never contradicts it.
        for name in levels[: deepest + 1]:
            answer = self._answer(logits, pattern, name, top_k, precision, abstains, parent)
            if answer.decision == "accept" and not parent_accepted:
                answer = AttributeAnswer(answer.label, answer.confidence, "review", answer.candidates)
            parent, parent_accepted = answer.label, answer.decision == "accept"
            answers[name] = answer
        paths: Floats | None = None
        for name in attributes:
            if name in answers:
                continue
            if name in self.layout.applies and not abstains:
                if paths is None:
                    finest = self.hierarchy[-1]
                    paths = self._path_probabilities(logits, self.temperature(pattern, finest))
                share = float(self.layout.not_applicable(paths, name))
                if share > 0.5:
                    answers[name] = AttributeAnswer(None, min(share, 1.0), "not_applicable", ())
                    continue
            answers[name] = self._answer(logits, pattern, name, top_k, precision, abstains, None)
        return {name: answers[name] for name in attributes}

    def _path_probabilities(self, logits: NDArray[Any], temperature: float) -> Floats:
        layout = self.layout.layouts[self.hierarchy[-1]]
        scaled = logits[layout.offset : layout.offset + layout.size].astype(np.float64) / temperature
        scaled = np.exp(scaled - scaled.max())
        return np.asarray(scaled / scaled.sum())

    def _answer(
        self,
        logits: NDArray[Any],
        pattern: Pattern,
        name: str,
        top_k: int,
        precision: float,
        abstains: bool,
        parent: str | None,
    ) -> AttributeAnswer:
        layout = self.layout.layouts[name]
        probabilities = self.layout.probabilities(logits, name, self.temperature(pattern, name))
        best = int(self.layout.best_labels(logits, name))
        confidence = float(min(1.0, probabilities[best]))
        order = [best]
        if top_k > 1:
            parents = self.layout.parent_label.get(name)
            for index in np.argsort(-probabilities, kind="stable")[: None if parents else top_k + 1].tolist():
                if len(order) == top_k:
                    break
                sibling = parents is None or parent is None or parents[layout.labels[index]] == parent
                if index != best and sibling:
                    order.append(index)
        candidates = tuple(Candidate(layout.labels[i], float(min(1.0, probabilities[i]))) for i in order)
        decision: Decision = "abstain"
        if not abstains:
            least = self.min_confidence(pattern, name, precision)
            decision = "accept" if least is not None and confidence >= least else "review"
        return AttributeAnswer(layout.labels[best], confidence, decision, candidates)

    def agreement(self, outputs: Mapping[str, NDArray[Any]]) -> Agreement | None:
        """How surely the photo and the title show one product, and where they say different things."""
        if self._agreement is None:
            return None
        conflict_below: Mapping[str, float] = self._agreement["conflict_below"]
        features = agreement_features(self, outputs, {*self._agreement["features"], *conflict_below} - {"cosine"})
        values = [float(features[name]) for name in self._agreement["features"]]
        score = float(np.dot(values, self._agreement["weights"]) + self._agreement["bias"])
        conflicts = []
        for name, limit in conflict_below.items():
            image, text = (int(self.layout.best_labels(outputs[f"{m}_logits"], name)) for m in ("image", "text"))
            if image == text or float(features[name]) >= limit:
                continue
            sides = []
            for side, index in (("image", image), ("text", text)):
                pattern: Pattern = "image" if side == "image" else "text"
                p = self.layout.probabilities(outputs[f"{side}_logits"], name, self.temperature(pattern, name))
                sides.append(Candidate(self.attribute_labels[name][index], float(min(1.0, p[index]))))
            conflicts.append(Conflict(name, *sides))
        return Agreement(1.0 / (1.0 + float(np.exp(-np.clip(score, -50, 50)))), tuple(conflicts))


def agreement_features(answerer: Answerer, outputs: Mapping[str, NDArray[Any]], attributes: Iterable[str]) -> dict[str, Floats]:
    """What agreement is judged by, each [...]: `cosine` of the photo's and the title's embedding, and per attribute the
    probability that both would name the same label."""
    image, text = outputs["image_embedding"], outputs["text_embedding"]
    features: dict[str, Floats] = {"cosine": np.asarray((image * text).sum(axis=-1), np.float64)}
    for name in attributes:
        sides = [
            answerer.layout.probabilities(outputs[f"{side}_logits"], name, answerer.temperature(pattern, name))
            for side, pattern in (("image", PATTERNS[1]), ("text", PATTERNS[2]))
        ]
        features[name] = np.asarray((sides[0] * sides[1]).sum(axis=-1))
    return features
