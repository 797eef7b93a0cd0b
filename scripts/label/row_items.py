"""From a catalogue's row to an item of a request: its title, and its photo from a folder or zip.

Owns which columns are read and where photos are looked for. Refuses to know HTTP, and to open a photo file that was not
listed inside its folder or zip.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.config import PhotoSource
from scripts.data.errors import CatalogueError, missing_column_message
from scripts.data.photo_files import PhotoFiles
from scripts.label.catalogue import CatalogueFile, CatalogueRow

_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class RowItem:
    """What is sent for a row. `item` is None where there is nothing to send; `problems` says what the row lacks."""

    item: dict[str, Any] | None
    problems: tuple[str, ...] = ()

    @property
    def payload_bytes(self) -> int:
        """About the length of the item as JSON."""
        return 64 + sum(len(value) for value in (self.item or {}).values())


class ItemMaker:
    """Makes items from rows; safe to call from many threads. `close` when done.

    Raises CatalogueError: no column was named, a named one is missing, or a photo source is.
    """

    def __init__(
        self,
        catalogue: CatalogueFile,
        *,
        text_column: str | None,
        image_column: str | None,
        image_pattern: str | None,
        photos: Sequence[Path],
    ) -> None:
        if not (text_column or image_column or image_pattern):
            raise CatalogueError("Say what to read: --text-column, and --image-column or --image-pattern.")
        self._text_column, self._image_column, self._image_pattern = text_column, image_column, image_pattern
        self.id_column = "id" if "id" in catalogue.columns else None
        fields = _FIELD.findall(image_pattern or "")
        if image_pattern and not fields:
            raise CatalogueError(
                f"The image pattern {image_pattern!r} must name a column in braces, as in 'images/{{id}}.jpg'."
            )
        _require(catalogue, [text_column], "the text column")
        _require(catalogue, [image_column], "the image column")
        _require(catalogue, fields, "named by the image pattern")
        self._reads_photos = bool(image_column or image_pattern)
        sources = (photos or [catalogue.path.parent]) if self._reads_photos else []
        self._sources: list[PhotoFiles] = []
        try:
            for path in sources:
                self._sources.append(PhotoFiles(PhotoSource(path)))
        except CatalogueError:
            self.close()
            raise

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def make(self, row: CatalogueRow) -> RowItem:
        """The row's item. A photo that is not found leaves the title alone, and is a problem to be listed."""
        if row.problem:
            return RowItem(None, (row.problem,))
        item: dict[str, Any] = {}
        problems: tuple[str, ...] = ()
        if self._reads_photos:
            photo, problem = self._photo(row)
            if photo is not None:
                item["image"] = base64.b64encode(photo).decode("ascii")
            problems += (problem,) if problem else ()
        title = row.cell(self._text_column)
        if title:
            item["text"] = title
        if not item:
            return RowItem(None, (*problems, "no_photo_no_title"))
        return RowItem(item, problems)

    def _photo(self, row: CatalogueRow) -> tuple[bytes | None, str]:
        cell = row.cell(self._image_column)
        if not cell and self._image_pattern:
            # Plain substitution, so that a cell can do nothing but appear.
            cell = _FIELD.sub(lambda field: row.cell(field[1]), self._image_pattern)
        problem = "missing_photo"
        for source in self._sources if cell else ():
            name, is_ambiguous = source.find(cell)
            if name is not None:
                photo = source.read(name)
                return (photo, "") if photo is not None else (None, "unreadable_photo")
            problem = "ambiguous_photo" if is_ambiguous else problem
        return None, problem


def _require(catalogue: CatalogueFile, columns: Iterable[str | None], purpose: str) -> None:
    for column in columns:
        if column and column not in catalogue.columns:
            where = catalogue.path.name
            raise CatalogueError(missing_column_message(column, purpose=purpose, available=catalogue.columns, where=where))
