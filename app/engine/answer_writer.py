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


class AnswerForm(Protocol):
    """What stands around an answer's numbers: `attribute`, its confidence, `decision`, for every candidate `candidate` and its
    confidence, `end`; between two attributes `separator`, which is not empty."""

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
        labels, confidences = table.labels, table.confidences
        decisions, confidence, none, start = table.decisions, table.confidence, pieces.none, pieces.start
        if names != table.layout.attributes:
            rows = np.array([table.layout.attributes.index(name) for name in names])
            labels, confidences, none, start = labels[:, rows], confidences[:, rows], none[rows], start[rows]
            decisions, confidence = decisions[:, rows], confidence[:, rows]
        items, attributes, ranks = labels.shape
        is_none = confidences < 0.0
        chosen = np.where(is_none, none[:, None], labels + start[:, None])
        # Texts and numbers take turns: attribute 0.9 decision and first candidate 0.9 next candidate 0.1 end.
        texts = np.empty((items, attributes, ranks + 2), np.int64)
        texts[..., 0] = np.where(decisions == NOT_APPLICABLE, none, chosen[..., 0])
        texts[..., 1] = chosen[..., 0] + pieces.firsts[decisions]
        texts[..., 2:-1] = chosen[..., 1:] + pieces.followings
        texts[..., -1] = np.where(is_none[..., 0], pieces.end, pieces.end + 1)
        numbers = np.empty((items, attributes, ranks + 1))
        numbers[..., 0], numbers[..., 1:] = confidence, confidences
        parts = np.empty((items, attributes, 2 * ranks + 3), object)
        parts[..., 0::2] = pieces.texts[texts]
        parts[..., 1::2] = _decimal(numbers)
        parts[..., 3::2][is_none] = b""
        surplus = len(self._form.separator)
        return [b"".join(item)[:-surplus] for item in parts.reshape(items, -1).tolist()]


class _Pieces:
    """What answers of one model are joined from: `texts`, of which the first are the attributes', one per label. Labels are
    numbered through; behind those of each attribute (from `start` int64[A]) comes the number that stands for none of them
    (`none` int64[A]). From `firsts` (int64, by decision) and `followings` on there is one per label, too; at `end` are two.
    """

    def __init__(self, layout: LabelLayout, form: AnswerForm) -> None:
        labels = [(name, label) for name in layout.attributes for label in (*layout.layouts[name].labels, None)]
        sizes = [len(layout.layouts[name].labels) + 1 for name in layout.attributes]
        self.start = np.cumsum([0, *sizes[:-1]])
        self.none = np.cumsum(sizes) - 1
        texts = [form.attribute(name, label) for name, label in labels]
        firsts = []
        for decision in DECISIONS:
            firsts.append(len(texts))
            given = form.decision(decision)
            texts += [given + _candidate(form, label, is_first=True) for _, label in labels]
        self.firsts = np.array(firsts)
        self.followings = len(texts)
        texts += [_candidate(form, label, is_first=False) for _, label in labels]
        self.end = len(texts)
        texts += [form.end(has_candidates=some) + form.separator for some in (False, True)]
        self.texts = np.array(texts, object)


def _candidate(form: AnswerForm, label: str | None, *, is_first: bool) -> bytes:
    return b"" if label is None else form.candidate(label, is_first=is_first)


_WHOLE = np.array([list(b"%d.%03d" % divmod(thousandths, 1000)) for thousandths in range(1001)], np.uint8)
_REST = np.array([list(b"%03d" % thousandths) for thousandths in range(1000)], np.uint8)


def _decimal(numbers: Floats) -> NDArray[np.bytes_]:
    """As "0.123456". What is no number in [0, 1] comes out as some other."""
    millionths = (np.fmin(np.fmax(numbers, 0.0), 1.0) * 1e6 + 0.5).astype(np.int64)
    whole, rest = np.divmod(millionths, 1000)
    text = np.empty((*numbers.shape, 8), np.uint8)
    text[..., :5], text[..., 5:] = _WHOLE[whole], _REST[rest]
    return text.view("S8")[..., 0]
