"""What is raised when a catalogue as a whole cannot be read; single bad rows are reported, not raised."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MAX_NAMES_SHOWN = 40


class CatalogueError(Exception):
    """The catalogue cannot be read; the message is for the person who started the training and says what to do."""


def missing_column_message(column: str, *, purpose: str, available: Iterable[str], where: str) -> str:
    """One line: which column is missing, which exist, which was probably meant."""
    names = list(available)
    lowered = {name.lower(): name for name in names}
    close = get_close_matches(column.lower(), lowered, n=1)
    meant = f" Did you mean {lowered[close[0]]!r}?" if close else ""
    shown = ", ".join(names[:_MAX_NAMES_SHOWN]) + (", …" if len(names) > _MAX_NAMES_SHOWN else "")
    return f"{where} has no column {column!r} ({purpose}).{meant} Its columns are: {shown or 'none'}."
