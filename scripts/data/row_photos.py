"""The photos of a table's rows: from cells to decoded pixels.

Owns which sources are searched and why a row came out without a photo. Refuses to know the table's columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.config import PhotoSource
from scripts.data.errors import CatalogueError
from scripts.data.photo_cache import PhotoReference, decode_photos
from scripts.data.photo_files import PhotoFiles

_REASONS = {
    "undecodable": "undecodable_photo",
    "unsupported_type": "unsupported_photo_type",
    "too_large": "photo_too_large",
}


@dataclass(frozen=True, slots=True)
class RowPhotos:
    """`pixels` uint8[K, H, W, 3] of the K rows kept; for each of all N rows `reasons` is "" or why it has no photo, and
    `hashes` names the photo's content."""

    pixels: NDArray[np.uint8]
    reasons: list[str]
    hashes: list[str]


def read_row_photos(
    cells: Sequence[str],
    droppable: Sequence[bool],
    sources: Sequence[PhotoSource],
    *,
    size: tuple[int, int],
    cache_dir: Path,
    notes: list[str],
) -> RowPhotos:
    """Find and decode the photo that each cell names. A row without one is left out where `droppable`, else all zeros.

    Raises:
        CatalogueError: a source is missing, or not one photo was found.
    """
    with _opened(sources, notes) as opened:
        found = [_find(cell, opened) for cell in cells]
        references = [reference for reference, _ in found]
        if cells and not any(references):
            raise CatalogueError(_nothing_found(cells, opened))
        decoded = decode_photos(references, droppable, height=size[0], width=size[1], cache_dir=cache_dir, label="photos")
    reasons = []
    for (reference, ambiguous), problem in zip(found, decoded.problems, strict=True):
        absent = "ambiguous_photo" if ambiguous else "missing_photo"
        reasons.append("" if not problem else absent if reference is None else _REASONS[problem])
    return RowPhotos(decoded.pixels, reasons, decoded.hashes)


def read_extra_photos(
    cells: Sequence[str], sources: Sequence[PhotoSource], *, size: tuple[int, int], cache_dir: Path, notes: list[str]
) -> tuple[NDArray[np.uint8], list[int], list[tuple[int, str]]]:
    """Every photo of every source that a cell names, readable ones only.

    Returns the pixels uint8[M, H, W, 3], for each of the M the index of its cell, and (cell index, reason) of those that
    could not be decoded.

    Raises:
        CatalogueError: a source is missing that is not optional.
    """
    references: list[PhotoReference | None] = []
    owners: list[int] = []
    with _opened(sources, notes) as opened:
        for files in opened:
            for owner, cell in enumerate(cells):
                reference, _ = _find(cell, [files])
                if reference is not None:
                    references.append(reference)
                    owners.append(owner)
        decoded = decode_photos(
            references,
            [True] * len(references),
            height=size[0],
            width=size[1],
            cache_dir=cache_dir,
            label="extra photos",
        )
    results = list(zip(owners, decoded.problems, strict=True))
    kept = [owner for owner, problem in results if not problem]
    return decoded.pixels, kept, [(owner, _REASONS[problem]) for owner, problem in results if problem]


def encoded_extra_photos(cells: Sequence[str], sources: Sequence[PhotoSource]) -> Iterator[tuple[int, bytes, float | None]]:
    """(index of the cell, the file's bytes, the source's `aspect_ratio`) of the first extra photo that each cell names;
    cells without a readable one are passed over.

    Raises:
        CatalogueError: a source is missing that is not optional.
    """
    with _opened(sources, []) as opened:
        for index, cell in enumerate(cells):
            reference, _ = _find(cell, opened)
            data = reference.files.read(reference.name) if reference is not None else None
            if reference is not None and data is not None:
                yield index, data, reference.files.source.aspect_ratio


@contextmanager
def _opened(sources: Sequence[PhotoSource], notes: list[str]) -> Iterator[list[PhotoFiles]]:
    with ExitStack() as stack:
        opened = []
        for source in sources:
            try:
                files = PhotoFiles(source)
            except CatalogueError as error:
                if not source.optional or source.path.exists():
                    raise
                notes.append(f"optional photos left out: {error}")
                continue
            stack.callback(files.close)
            opened.append(files)
        yield opened


def _find(cell: str, sources: Sequence[PhotoFiles]) -> tuple[PhotoReference | None, bool]:
    ambiguous = False
    for files in sources if cell else ():
        name, several = files.find(cell)
        if name is not None:
            return PhotoReference(files, name), False
        ambiguous = ambiguous or several
    return None, ambiguous


def _nothing_found(cells: Sequence[str], sources: Sequence[PhotoFiles]) -> str:
    where = ", ".join(str(files.path) for files in sources)
    cell = next((cell for cell in cells if cell), "")
    names = [name for files in sources for name in files.names[:1]]
    there = f"the first photo there is {names[0]!r}" if names else "and there is no photo there at all"
    return (
        f"None of the {len(cells):,} rows' photos is in {where}: a row looks for {cell!r}, {there}. "
        "Check the image column or pattern, and the photo folder or zip."
    )
