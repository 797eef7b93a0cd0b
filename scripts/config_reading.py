"""Plain mappings (from TOML or flags) to frozen dataclasses, strictly.

Owns unknown keys, types and bounds, and the one-line messages about them. Refuses to know what any key means.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

D = TypeVar("D")


class ConfigError(Exception):
    """A training config is wrong; the message is one line that names the key, the file, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Between:
    """Inclusive bounds of a number, or of the length of a tuple when `of_length`."""

    low: float
    high: float
    of_length: bool = False


def read_dataclass(cls: type[D], values: Mapping[str, Any], *, source: str, prefix: str = "", base: D | None = None) -> D:
    """Build `cls` from `values`; what is not named keeps its value in `base`, or its default.

    `source` (a file name, or "the command line") and `prefix` ("training.") appear in messages. A dataclass with a
    single required path accepts a plain string.

    Raises:
        ConfigError: unknown key, wrong type, out of bounds, or a required key is missing.
    """
    hints = get_type_hints(cls, include_extras=True)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(_unknown(f"{prefix}{key}", key, list(known), source))
    arguments: dict[str, Any] = {}
    for name, definition in known.items():
        if name in values:
            current = getattr(base, name) if base is not None else None
            arguments[name] = _read(hints[name], values[name], f"{prefix}{name}", source, current)
        elif base is not None:
            arguments[name] = getattr(base, name)
        elif definition.default is MISSING and definition.default_factory is MISSING:
            raise ConfigError(f"{source}: {prefix}{name} is missing")
    return cls(**arguments)


def _read(hint: Any, value: Any, key: str, source: str, current: Any) -> Any:
    bounds: Between | None = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)[:2]
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        hint = next(option for option in get_args(hint) if option is not type(None))
        origin = get_origin(hint)
    if origin is Literal:
        allowed = get_args(hint)
        if value not in allowed:
            raise ConfigError(_not_one_of(key, value, [str(option) for option in allowed], source))
        return value
    if origin is tuple:
        item = get_args(hint)[0]
        single = isinstance(value, str | Mapping) and item not in (int, float)
        listed = [value] if single else value
        if not isinstance(listed, list | tuple):
            raise ConfigError(f"{source}: {key} must be a list, not {_kind(value)}")
        _check_bounds(bounds if bounds and bounds.of_length else None, len(listed), f"the number of entries of {key}", source)
        inner = Annotated[item, bounds] if bounds and not bounds.of_length else item
        return tuple(_read(inner, entry, f"{key}[{i}]", source, None) for i, entry in enumerate(listed))
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, str):
            value = {fields(hint)[0].name: value}
        if not isinstance(value, Mapping):
            raise ConfigError(f"{source}: {key} must be a table, not {_kind(value)}")
        return read_dataclass(hint, value, source=source, prefix=f"{key}.", base=current)
    return _scalar(hint, value, key, source, bounds)


def _scalar(hint: Any, value: Any, key: str, source: str, bounds: Between | None) -> Any:
    if hint is Path and isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is Path or type(value) is not hint:
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", Path: "a path"}[hint]
        raise ConfigError(f"{source}: {key} must be {wanted}, not {_kind(value)}")
    if bounds is not None:
        _check_bounds(bounds, value, key, source)
    return value


def _check_bounds(bounds: Between | None, value: float, key: str, source: str) -> None:
    if bounds is not None and not bounds.low <= value <= bounds.high:  # NaN is refused too
        raise ConfigError(f"{source}: {key} must be between {bounds.low:,g} and {bounds.high:,g}, not {value:,g}")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {value[:60]!r}"
    if isinstance(value, int | float):
        return f"{value}"
    return "a table" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else type(value).__name__


def _unknown(path: str, name: str, known: list[str], source: str) -> str:
    close = get_close_matches(name, known, n=1)
    meant = f", did you mean {close[0]!r}?" if close else ";"
    return f"{source}: unknown key {path!r}{meant} Allowed here: {', '.join(known)}"


def _not_one_of(key: str, value: object, allowed: list[str], source: str) -> str:
    close = get_close_matches(str(value), allowed, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{source}: {key} must be one of {', '.join(allowed)}, not {_kind(value)}{meant}"
