"""From pydantic's findings to JSON pointers.

Owns the words of a schema error. Values are never repeated, and neither is the name of a field that is not ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.api.schemas import NUMBERS
from app.errors import FieldError, ProblemError

ModelT = TypeVar("ModelT", bound=BaseModel)
_MAX_ERRORS = 20
_MAX_NUMBER_CHARS = 32
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """A field that is null is a field that is absent: typed clients write their empty fields so."""
    return {key: item for key, item in value.items() if item is not None}


def validate(model: type[ModelT], value: Any, *, pointer: str = "", code: str = "invalid_request") -> ModelT:
    """`value` (parsed JSON) as `model`. Raises `ProblemError` with a pointer per finding."""
    if isinstance(value, dict):
        value = without_nulls(value)
        # ASCII, as nearly all is, needs no call to say so.
        broken = [
            key
            for key, text in value.items()
            if not (key.isascii() and type(text) is str and text.isascii()) and not (_is_text(key) and _is_text(text))
        ]
        if broken:
            detail = "Holds half a surrogate pair; cut text between whole characters"
            places = dict.fromkeys(f"{pointer}/{key}" if key in model.model_fields else pointer for key in broken)
            raise ProblemError(code, errors=[FieldError(place, detail) for place in places])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ProblemError(code, errors=_field_errors(error, model.model_fields.keys(), pointer)) from None


def validate_strings(
    model: type[ModelT],
    values: Mapping[str, str | Sequence[str]],
    *,
    code: str = "invalid_request",
    also_known: Iterable[str] = (),
) -> ModelT:
    """Form fields or query options, all of them text, as `model`. `also_known`: other fields that an unknown one may
    have been meant for. Raises `ProblemError`."""
    given: dict[str, Any] = {
        name: _number(text, name, code) if name in NUMBERS & model.model_fields.keys() else text
        for name, text in values.items()
    }
    try:
        # Lax: a switch may be spelled as text.
        return model.model_validate(given, strict=False)
    except ValidationError as error:
        raise ProblemError(code, errors=_field_errors(error, {*model.model_fields, *also_known}, "")) from None


def _number(text: str | Sequence[str], name: str, code: str) -> float:
    """Numbers are spelled as in JSON. Raises `ProblemError`."""
    if not isinstance(text, str) or len(text) > _MAX_NUMBER_CHARS or not _JSON_NUMBER.fullmatch(text):
        raise ProblemError(code, errors=[FieldError(f"/{name}", "Should be a number, as JSON writes it")])
    return float(text)


def _is_text(value: Any) -> bool:
    """Whether a string can be written as UTF-8; true of everything that is no string."""
    try:
        return not isinstance(value, str) or value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _field_errors(error: ValidationError, known: Collection[str], prefix: str) -> list[FieldError]:
    findings = error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_ERRORS]
    errors = (_field_error(finding["type"], finding["loc"], finding["msg"], known, prefix) for finding in findings)
    return list(dict.fromkeys(errors))


def _field_error(kind: str, loc: tuple[int | str, ...], message: str, known: Collection[str], prefix: str) -> FieldError:
    if kind == "extra_forbidden":
        name = str(loc[-1])
        known = sorted(known)
        close = get_close_matches(name[:64], known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"allowed: {', '.join(known)}"
        # The name is the client's own, so only its place is told.
        return FieldError(prefix + "".join(f"/{part}" for part in loc[:-1]), f"There is an unknown field here; {hint}")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "Should be a JSON object"
    elif kind == "missing":
        message = "Required"
    elif kind.startswith("string_pattern") and loc and loc[-1] == "version":
        message = 'Should be a whole number written as a string, such as "1"'
    # Fields are pydantic's own, so their names need no RFC 6901 escapes.
    return FieldError(prefix + "".join(f"/{part}" for part in loc), message)
