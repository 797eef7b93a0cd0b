"""The answers of a whole batch, in columns: a batch has hundreds of candidates, and most of them are only ever written down.

Owns the columns, and one item's answers seen through them as the nouns of `app.engine.items`. Refuses to know how an answer is
found, and how it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.engine.decisions import DECISIONS, NOT_APPLICABLE, Codes
from app.engine.items import AttributeAnswer, Candidate, Decision
from app.engine.label_layout import Floats, LabelLayout
from app.engine.levels import Indices


@dataclass(slots=True, eq=False)
class AnswerTable:
    """What B items would be answered, for all A attributes of `layout`, with K candidates at most.

    `labels` int64[B, A, K], each within its attribute, with `confidences` float64[B, A, K], below 0 where there is no further
    candidate; `decisions` uint8[B, A], places in `DECISIONS`; `confidence` float64[B, A], of the answer. `written`: what was
    made of them, by name, for the items that follow.
    """

    layout: LabelLayout
    labels: Indices
    confidences: Floats
    decisions: Codes
    confidence: Floats
    written: dict[Any, Any] = field(default_factory=dict)


class AttributeAnswers(Mapping[str, AttributeAnswer]):
    """Those of the item at `position` of a table, for the attributes `names`; made when they are asked for."""

    __slots__ = ("names", "position", "table")

    def __init__(self, table: AnswerTable, position: int, names: Sequence[str]) -> None:
        self.table = table
        self.position = position
        self.names = names

    def __getitem__(self, name: str) -> AttributeAnswer:
        if name not in self.names:
            raise KeyError(name)
        table, at = self.table, (self.position, self.table.layout.attributes.index(name))
        labels = table.layout.layouts[name].labels
        candidates = tuple(
            Candidate(labels[label], confidence)
            for label, confidence in zip(table.labels[at].tolist(), table.confidences[at].tolist(), strict=True)
            if not confidence < 0.0
        )
        decision = table.decisions[at]
        answered = None if decision == NOT_APPLICABLE else candidates[0].label
        return AttributeAnswer(answered, float(table.confidence[at]), DECISIONS[decision], candidates)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def decisions(self) -> tuple[Decision, ...]:
        """In the order of `names`."""
        of_all: list[tuple[Decision, ...]] | None = self.table.written.get("decisions")
        if of_all is None:
            of_all = [tuple(map(DECISIONS.__getitem__, codes)) for codes in self.table.decisions.tolist()]
            self.table.written["decisions"] = of_all
        decisions, attributes = of_all[self.position], self.table.layout.attributes
        return decisions if self.names == attributes else tuple(decisions[attributes.index(name)] for name in self.names)
