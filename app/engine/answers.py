"""Scores to answers: decisions, candidates, agreement.

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

from app.engine.agreement_table import AgreementTable, sigmoid
from app.engine.answer_table import AnswerTable, AttributeAnswers
from app.engine.decisions import ABSTAIN, NOT_APPLICABLE, DecisionTable
from app.engine.items import Agreement, Candidate, Classification, Conflict, Modality, Pattern
from app.engine.label_layout import Floats, LabelLayout
from app.engine.levels import Indices
from app.engine.ranking import best, ranking
from app.engine.scores import INPUTS_OF_PATTERN, NO_LABEL, OUTPUT_OF_PATTERN, PATTERNS, Scores, ScoreTable, one_item

__all__ = ["OUTPUT_OF_PATTERN", "PATTERNS", "Answerer", "LabelLayout", "agreement_features", "contradiction_features"]

_AS_LIKELY = 0.0
"""The logit at which an input is as likely a made outlier as a real one."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What B items are answered from: `patterns` int64[B], places in `PATTERNS`, and the `inputs` that these are. `abstains`
    bool[B]: like nothing that was learnt."""

    patterns: Indices
    inputs: Sequence[tuple[Modality, ...]]
    abstains: NDArray[np.bool_]


class Answerer:
    """Answers of one bundle; built once, called for every item."""

    def __init__(self, labels: Mapping[str, Any], calibration: Mapping[str, Any]) -> None:
        self.layout = LabelLayout(labels)
        self.attributes = self.layout.attributes
        self._row = {name: row for row, name in enumerate(self.attributes)}
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
        self._min_logit: dict[Modality, float | None] = {}
        self._readable_from: dict[Modality, float | None] = {}
        for modality in ("image", "text"):
            limit = (calibration.get("in_domain", {}).get(modality) or {}).get("min_logit")
            self._min_logit[modality] = None if limit is None else float(limit)
            # What is unlike most may still be read. Of a photo and a title, one gives way when it is likelier none than one.
            self._readable_from[modality] = None if limit is None else min(float(limit), _AS_LIKELY)
        self._agreement = AgreementTable.of(calibration.get("agreement"), self.attributes)
        self.table = ScoreTable(self.layout, self._temperature)
        self._decisions = DecisionTable(calibration, self.attributes, self.layout.level_rows)

    @property
    def kind_attribute(self) -> str:
        """What an item is: the finest level of the hierarchy, or else the first attribute."""
        return self.hierarchy[-1] if self.hierarchy else self.attributes[0]

    @property
    def family_attribute(self) -> str:
        """The level above the finest where the hierarchy has three or more, else `kind_attribute`."""
        return self.hierarchy[-2] if len(self.hierarchy) > 2 else self.kind_attribute

    def score(self, outputs: Mapping[str, NDArray[Any]], inputs: Sequence[Sequence[Modality]] | None = None) -> Scores:
        """All that `answer` needs of a batch's outputs, B rows each. An item's scores do not depend on its batch. `inputs`:
        what each came with; None where all have a photo and a title."""
        return self.table.score(outputs, inputs)

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
        """`answer` for one item from its rows of the network's outputs (`*_logits` float32[L], scalars)."""
        batch, inputs = one_item(outputs), INPUTS_OF_PATTERN[0 if image_present and text_present else 1 if image_present else 2]
        return self.answer(batch, self.score(batch, [inputs]), 0, attributes=attributes, top_k=top_k, precision=precision)

    def answer(
        self,
        outputs: Mapping[str, NDArray[Any]],
        scores: Scores,
        position: int,
        *,
        attributes: Sequence[str],
        top_k: int,
        precision: float,
    ) -> Classification:
        """The answer for the item at `position` of a batch, from the batch's outputs and `score` of them. Worked out for the
        whole batch when the first of its items asks.

        A title that reads like none, or like another product's, is left out beside a photo that looks like one: the answer, and
        `inputs`, are then the photo's alone. An unfamiliar photo, or an unfamiliar title alone, makes every decision
        `abstain`.
        """
        reading: _Reading | None = scores.worked_out.get("reading")
        if reading is None:
            reading = scores.worked_out["reading"] = self._read(scores, outputs)
        table = self._answers(scores, reading, top_k, precision)
        agreement = self._agree(scores, position) if len(scores.inputs[position]) > 1 else None
        return Classification(reading.inputs[position], AttributeAnswers(table, position, attributes), agreement)

    def leaves_title_out(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """bool[...]: of items with photo and title, whose answer is the photo's alone."""
        contradicts: NDArray[np.bool_] | bool = False
        if self._agreement is not None and (rule := self._agreement.contradiction) is not None:
            cosine, overlap, sureness = contradiction_features(self, outputs, rule.names)
            contradicts = rule.score(cosine, overlap, sureness, outputs) > 0
        return np.broadcast_to(self._leaves_title_out(outputs, contradicts), np.shape(outputs["image_in_domain"]))

    def agreement_scores(self, outputs: Mapping[str, NDArray[Any]]) -> Floats:
        """float64[...]: `Agreement.score` of items with photo and title. Raises ValueError for a bundle without it."""
        table = self._agreement
        if table is None:
            raise ValueError("the bundle was not calibrated for agreement")
        names = [name for name, weight in zip(self.attributes, table.weights, strict=True) if weight]
        features = agreement_features(self, outputs, names)
        total = features["cosine"] * table.cosine_weight + table.bias
        for name in names:
            total = total + features[name] * table.weights[self._row[name]]
        return np.asarray(sigmoid(total), np.float64)

    def is_familiar(self, outputs: Mapping[str, NDArray[Any]], modality: Modality) -> bool:
        """Whether the photo or the title looks like the training data. True where there was too little data to tell."""
        return bool(self._is_familiar(outputs[f"{modality}_in_domain"], modality))

    def _is_familiar(self, in_domain: Any, modality: Modality) -> Any:
        """For a number or an array of them."""
        limit = self._min_logit[modality]
        return limit is None or in_domain >= limit

    def _leaves_title_out(self, outputs: Mapping[str, NDArray[Any]], contradicts: Any) -> Any:
        """For items with both inputs: a bool, or an array of them. A number that is none cannot be read."""
        photo, title = (
            limit is None or outputs[f"{modality}_in_domain"] >= limit for modality, limit in self._readable_from.items()
        )
        return photo & ((title ^ True) | contradicts)  # no `and` and `not`, which arrays have none of

    def temperature(self, pattern: Pattern, attribute: str) -> float:
        return self._temperature[pattern][attribute]

    def min_confidence(self, pattern: Pattern, attribute: str, precision: float) -> float | None:
        """See `DecisionTable`."""
        return self._decisions.min_confidence(pattern, attribute, precision)

    def _read(self, scores: Scores, outputs: Mapping[str, NDArray[Any]]) -> _Reading:
        has_image, has_text = (np.array([name in inputs for inputs in scores.inputs]) for name in ("image", "text"))
        reads_text, abstains = has_text, np.zeros(has_text.shape, np.bool_)
        if (has_image & has_text).any():
            reads_text = has_text & ~(has_image & self._leaves_title_out(outputs, self._contradicts(scores, outputs)))
        asked: tuple[tuple[Modality, NDArray[np.bool_]], ...] = (("image", has_image), ("text", ~has_image))
        for modality, is_asked in asked:
            if is_asked.any():
                abstains |= is_asked & ~np.asarray(self._is_familiar(outputs[f"{modality}_in_domain"], modality))
        patterns = np.where(has_image, np.where(reads_text, 0, 1), 2)
        return _Reading(patterns, [INPUTS_OF_PATTERN[pattern] for pattern in patterns.tolist()], abstains)

    def _answers(self, scores: Scores, reading: _Reading, top_k: int, precision: float) -> AnswerTable:
        key = ("answers", top_k, precision)
        known: AnswerTable | None = scores.worked_out.get(key)
        if known is not None:
            return known
        ranked = ranking(self.table, scores, reading.patterns, top_k)
        confidences, confidence = ranked.confidences, ranked.confidences[..., 0]
        decisions = self._decisions.decide(confidence, reading.patterns, precision)
        items, places = np.nonzero((ranked.outside > 0.5) & ~reading.abstains[:, None])
        if self.table.levels is not None and items.size:
            rows = self.table.levels.conditional[places]
            confidence = confidence.copy()
            decisions[items, rows] = NOT_APPLICABLE
            confidences[items, rows] = NO_LABEL
            confidence[items, rows] = np.minimum(ranked.outside[items, places], 1.0)
        decisions[reading.abstains] = ABSTAIN
        table = scores.worked_out[key] = AnswerTable(self.layout, ranked.labels, confidences, decisions, confidence)
        return table

    def agreement(self, outputs: Mapping[str, NDArray[Any]]) -> Agreement | None:
        """How surely the photo and the title of one item show one product, and where they say different things."""
        return self._agree(self.score(one_item(outputs)), 0)

    def _agree(self, scores: Scores, position: int) -> Agreement | None:
        if self._agreement is None or scores.cosine is None:
            return None
        known: list[Agreement] | None = scores.worked_out.get("agreement")
        if known is None:
            known = scores.worked_out["agreement"] = self._agree_all(scores, scores.cosine, self._agreement)
        return known[position]

    def _contradicts(self, scores: Scores, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_] | bool:
        rule = self._agreement.contradiction if self._agreement is not None else None
        if rule is None or scores.cosine is None:
            return False
        overlap, sureness = (table(scores).T[rule.rows] for table in (self.table.overlap, self.table.sureness))
        return np.asarray(rule.score(scores.cosine, overlap, sureness, outputs) > 0)

    def _agree_all(self, scores: Scores, cosine: Floats, table: AgreementTable) -> list[Agreement]:
        """Of every item."""
        overlap = self.table.overlap(scores)
        total = cosine * table.cosine_weight + (overlap * table.weights).sum(axis=-1) + table.bias
        conflicts: list[list[Conflict]] = [[] for _ in total]
        items, rows = np.nonzero(overlap < table.conflict_below)
        if items.size:
            image, text = (best(self.table, scores, pattern, items, rows) for pattern in PATTERNS[1:])
            for pair in np.flatnonzero(image[0] != text[0]).tolist():
                name = self.attributes[rows[pair]]
                labels = self.attribute_labels[name]
                sides = (Candidate(labels[label[pair]], float(confidence[pair])) for label, confidence in (image, text))
                conflicts[items[pair]].append(Conflict(name, *sides))
        return [Agreement(score, tuple(found)) for score, found in zip(sigmoid(total).tolist(), conflicts, strict=True)]


def agreement_features(answerer: Answerer, outputs: Mapping[str, NDArray[Any]], attributes: Iterable[str]) -> dict[str, Floats]:
    """What agreement is judged by, each [...]: `cosine` of the photo's and the title's embedding, and per attribute the
    probability that both would name the same label."""
    features = {"cosine": _cosine(outputs)}
    for name in attributes:
        image, text = _sides(answerer, outputs, name)
        features[name] = np.asarray((image * text).sum(axis=-1))
    return features


def contradiction_features(
    answerer: Answerer, outputs: Mapping[str, NDArray[Any]], attributes: Sequence[str]
) -> tuple[Floats, Floats, Floats]:
    """What a contradiction is judged by beside the `in_domain` outputs: the cosine [...], and of the K attributes the overlap
    and the sureness [K, ...] each (`app.engine.scores.ScoreTable`)."""
    cosine = _cosine(outputs)
    overlap, sureness = np.zeros((2, len(attributes), *cosine.shape))
    for row, name in enumerate(attributes):
        image, text = _sides(answerer, outputs, name)
        overlap[row] = (image * text).sum(axis=-1)
        sureness[row] = (image * image).sum(axis=-1) * (text * text).sum(axis=-1)
    return cosine, overlap, sureness


def _cosine(outputs: Mapping[str, NDArray[Any]]) -> Floats:
    return np.asarray((outputs["image_embedding"] * outputs["text_embedding"]).sum(axis=-1), np.float64)


def _sides(answerer: Answerer, outputs: Mapping[str, NDArray[Any]], name: str) -> list[Floats]:
    """The probabilities of the attribute's labels [..., labels], from the photo and from the title."""
    return [
        answerer.layout.probabilities(outputs[f"{side}_logits"], name, answerer.temperature(pattern, name))
        for side, pattern in (("image", PATTERNS[1]), ("text", PATTERNS[2]))
    ]
