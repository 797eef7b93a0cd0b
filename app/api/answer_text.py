"""Answers as JSON text.

Owns the JSON of a classification, the quick way to what `app.api.answers` says of it: the bulk of it is written for a whole
batch at once. A test holds the two together. Refuses to know what the answers mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from app.api.answers import render_agreement, render_attributes
from app.engine.answer_table import AttributeAnswers
from app.engine.answer_writer import AnswerWriter
from app.engine.items import AttributeAnswer, Classification, Decision
from app.errors import ProblemError


def merge_objects(*objects: bytes) -> bytes:
    """One JSON object of several that are not empty and have no name in common."""
    return b"{%b}" % b",".join([text[1:-1] for text in objects])


def write_result(index: int, item_id: str | None, outcome: bytes | ProblemError) -> bytes:
    """An entry of `results`, or a line of a bulk answer. `outcome`: a JSON object of what the item is, or its problem."""
    result: dict[str, Any] = {"index": index}
    if item_id is not None:
        result["id"] = item_id
    if isinstance(outcome, ProblemError):
        return to_json(result | {"status": "error", "error": outcome.document()})
    return merge_objects(to_json(result | {"status": "ok"}), outcome)


def write_classification(answer: Classification) -> bytes:
    """`render_classification` as JSON."""
    text = b'{"inputs":%b,"attributes":%b' % (to_json(answer.inputs), write_attributes(answer.attributes))
    if answer.agreement is not None:
        text += b',"agreement":' + to_json(render_agreement(answer.agreement))
    return text + b"}"


def write_attributes(answers: Mapping[str, AttributeAnswer]) -> bytes:
    """`render_attributes` as JSON."""
    if isinstance(answers, AttributeAnswers):
        return b"{%b}" % _writer.write(answers)
    return to_json(render_attributes(answers))


class _JsonForm:
    separator = b","

    def attribute(self, name: str, label: str | None) -> bytes:
        return b'%b:{"label":%b,"confidence":' % (to_json(name), to_json(label))

    def decision(self, decision: Decision) -> bytes:
        return b',"decision":%b,"candidates":[' % to_json(decision)

    def candidate(self, label: str, *, is_first: bool) -> bytes:
        return b'%b{"label":%b,"confidence":' % (b"" if is_first else b"},", to_json(label))

    def end(self, *, has_candidates: bool) -> bytes:
        return b"}]}" if has_candidates else b"]}"


_writer = AnswerWriter(_JsonForm())
