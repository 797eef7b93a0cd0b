"""Answers as text, written for a whole batch at once in a form that a front end supplies.

Owns the joining: an item's answer is some two hundred pieces, all but the numbers made once per model. A dictionary per
candidate, and a serialiser over it, took five times as long. Refuses to know what the form is (JSON, to REST).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from app.engine.answer_table import AnswerTable, AttributeAnswers
from app.engine.decisions import DECISIONS, NOT_APPLICABLE
from app.engine.items import Decision
from app.engine.label_layout import Floats, LabelLayout

_DIGITS = 6


class AnswerForm(Protocol):
    """What stands around an answer's numbers: `attribute`, its confidence, `decision`, for every candidate `candidate` and its
    confidence, `end`; between two attributes `separator`."""

    separator: bytes

    def attribute(self, name: str, label: str | None) -> bytes: ...

    def decision(self, decision: Decision) -> bytes: ...

    def candidate(self, label: str, *, is_first: bool) -> bytes: ...

    def end(self, *, has_candidates: bool) -> bytes: ...


class AnswerWriter:
    """Writes in one form, for any number of models."""

    def __init__(self, form: AnswerForm) -> None:
        self._form = form
        self._pieces: WeakKeyDictionary[LabelLayout, _Pieces] = WeakKeyDictionary()

    def write(self, answers: AttributeAnswers) -> bytes:
        """The answers in their order; confidences have 6 digits. Worked out for the whole batch when the first of its items
        asks."""
        key = (self, tuple(answers.names))
        written: list[bytes] | None = answers.table.written.get(key)
        if written is None:
            written = answers.table.written[key] = self._write_table(answers.table, answers.names)
        return written[answers.position]

    def _write_table(self, table: AnswerTable, names: Sequence[str]) -> list[bytes]:
        """By item."""
        pieces = self._pieces.get(table.layout)
        if pieces is None:
            pieces = self._pieces[table.layout] = _Pieces(table.layout, self._form)
        rows = np.array([table.layout.attributes.index(name) for name in names])
        confidences, decisions = table.confidences[:, rows], table.decisions[:, rows]
        none, is_none = pieces.none[rows], confidences < 0.0
        labels = np.where(is_none, none[:, None], table.labels[:, rows] + pieces.start[rows, None])
        digits = _decimal(confidences).astype(object)
        digits[is_none] = b""
        items, attributes, ranks = labels.shape
        parts = np.empty((items, attributes, 4 + 2 * ranks), object)
        parts[..., 0] = pieces.attribute[np.where(decisions == NOT_APPLICABLE, none, labels[..., 0])]
        parts[..., 1] = _decimal(table.confidence[:, rows])
        parts[..., 2] = pieces.decision[decisions]
        parts[..., 3] = pieces.first[labels[..., 0]]
        parts[..., 5:-1:2] = pieces.following[labels[..., 1:]]
        parts[..., 4:-1:2] = digits
        parts[..., -1] = pieces.end[np.where(is_none[..., 0], 0, 1)]
        surplus = len(self._form.separator)
        return [b"".join(item)[:-surplus] for item in parts.reshape(items, -1).tolist()]


class _Pieces:
    """What answers of one model are joined from. Labels are numbered through; behind those of each attribute comes the number
    that stands for none of them."""

    def __init__(self, layout: LabelLayout, form: AnswerForm) -> None:
        attribute: list[bytes] = []
        first: list[bytes] = []
        following: list[bytes] = []
        start = []
        for name in layout.attributes:
            start.append(len(attribute))
            labels = layout.layouts[name].labels
            attribute += [form.attribute(name, label) for label in (*labels, None)]
            first += [*(form.candidate(label, is_first=True) for label in labels), b""]
            following += [*(form.candidate(label, is_first=False) for label in labels), b""]
        self.start = np.array(start)
        self.none = np.array([*start[1:], len(attribute)]) - 1
        self.attribute, self.first, self.following = (np.array(pieces, object) for pieces in (attribute, first, following))
        self.decision = np.array([form.decision(decision) for decision in DECISIONS], object)
        self.end = np.array([form.end(has_candidates=some) + form.separator for some in (False, True)], object)


def _decimal(confidence: Floats) -> NDArray[np.bytes_]:
    """As "0.123456". What is no number in [0, 1] comes out as some other."""
    scaled = np.where(confidence >= 0.0, confidence, 0.0) * 10.0**_DIGITS + 0.5
    rest = scaled.astype(np.uint32)
    text = np.empty((*rest.shape, 2 + _DIGITS), np.uint8)
    for place in range(1 + _DIGITS, 1, -1):
        rest, digit = np.divmod(rest, 10)
        text[..., place] = digit
    text[..., 0] = rest
    text += ord("0")
    text[..., 1] = ord(".")
    return text.view(f"S{2 + _DIGITS}")[..., 0]
