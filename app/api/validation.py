"""From pydantic's findings to JSON pointers.

Owns the words of a schema error. Values are never repeated, and neither is the name of a field that is not ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.errors import FieldError, ProblemError

ModelT = TypeVar("ModelT", bound=BaseModel)
_MAX_ERRORS = 20


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """A field that is null is a field that is absent: typed clients write their empty fields so."""
    return {key: item for key, item in value.items() if item is not None}


def validate(model: type[ModelT], value: Any, *, pointer: str = "", code: str = "invalid_request") -> ModelT:
    """`value` (parsed JSON) as `model`. Raises `ProblemError` with a pointer per finding."""
    if isinstance(value, dict):
        value = without_nulls(value)
        broken = [key for key, text in value.items() if not (_is_text(key) and _is_text(text))]
        if broken:
            known = [key if key in model.model_fields else "" for key in broken]
            detail = "Holds half a surrogate pair; cut text between whole characters"
            raise ProblemError(code, errors=[FieldError(f"{pointer}/{key}".rstrip("/"), detail) for key in known])
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
    try:
        # Lax: text becomes the number it spells.
        return model.model_validate(values, strict=False)
    except ValidationError as error:
        raise ProblemError(code, errors=_field_errors(error, {*model.model_fields, *also_known}, "")) from None


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
