"""Folders and zips of photos: which file belongs to a row, and its bytes.

Owns finding and reading. Refuses to decode. Only files that were listed inside the folder or zip are ever opened, so a
cell such as `../../secret.jpg` finds nothing.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from scripts.config import PhotoSource
from scripts.data.errors import CatalogueError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# A photo for training is far below; what is above is a mistake or a bomb.
MAX_PHOTO_BYTES = 64 * 1024 * 1024


class PhotoFiles:
    """The photos of one folder or zip, found by path, by name, or by name without the extension.

    Raises CatalogueError when the source does not exist or is not a folder or readable zip.
    """

    def __init__(self, source: PhotoSource) -> None:
        self.source = source
        self.path = _existing(source.path)
        self._zip: zipfile.ZipFile | None = None
        if self.path.is_dir():
            self.names = sorted(_walk(self.path))
        else:
            self._zip, self.names = _open_zip(self.path)
        self._by_key: dict[str, str | None] = {}
        for name in self.names:
            for key in dict.fromkeys([*_keys(name), *_keys(_without_suffix(name))]):
                # None marks a key that several files share; the full path always stays findable.
                self._by_key[key] = None if key in self._by_key and key != name else name
        self._by_key.update((name, name) for name in self.names)

    def find(self, cell: str) -> tuple[str | None, bool]:
        """(the file's name within the source or None, whether several files fit)."""
        if "://" in cell:
            cell = unquote(urlsplit(cell).path)
        cell = cell.replace("\\", "/")
        ambiguous = False
        for key in dict.fromkeys([*_keys(cell), *_keys(_without_suffix(cell))]):
            name = self._by_key.get(key)
            if name is not None:
                return name, False
            ambiguous = ambiguous or key in self._by_key
        return None, ambiguous

    def read(self, name: str) -> bytes | None:
        """The file's bytes; None when it is larger than `MAX_PHOTO_BYTES` or cannot be read. Safe from many threads."""
        try:
            if self._zip is not None:
                if self._zip.getinfo(name).file_size > MAX_PHOTO_BYTES:
                    return None
                return self._zip.read(name)
            path = self.path / name
            return path.read_bytes() if path.stat().st_size <= MAX_PHOTO_BYTES else None
        except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError):
            return None

    def fingerprint(self, names: Sequence[str]) -> Iterator[str]:
        """Strings that change when one of the named photos does: sizes and modification times in nanoseconds."""
        yield str(self.path.resolve())
        if self._zip is not None:
            status = self.path.stat()
            yield f"{status.st_size} {status.st_mtime_ns}"
        for name in names:
            if self._zip is None:
                status = (self.path / name).stat()
                yield f"{name} {status.st_size} {status.st_mtime_ns}"
            else:
                yield name

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()


def _existing(path: Path) -> Path:
    """The path, or what stands in for it: a folder for the zip of the same name, and the other way round."""
    stand_in = path.with_suffix("") if path.suffix.lower() == ".zip" else path.with_name(path.name + ".zip")
    for candidate in (path, stand_in):
        if candidate.exists():
            return candidate
    raise CatalogueError(
        f"There is no photo folder or zip {path} (nor {stand_in.name}): check the path, or pass the data folder with --data."
    )


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        inside = Path(parent).relative_to(folder)
        for name in files:
            if _is_photo(name):
                yield (inside / name).as_posix()


def _open_zip(path: Path) -> tuple[zipfile.ZipFile, list[str]]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise CatalogueError(f"{path.name} is neither a folder nor a readable zip of photos: {error}.") from error
    infos = [info for info in archive.infolist() if not info.is_dir() and _is_photo(info.filename)]
    if any(info.flag_bits & 0x1 for info in infos):
        archive.close()
        raise CatalogueError(f"{path.name} is encrypted; unpack it and name the folder instead.")
    return archive, [info.filename for info in infos]


def _is_photo(name: str) -> bool:
    hidden = name.rpartition("/")[2].startswith(".") or name.startswith("__MACOSX/")
    return not hidden and name.lower().endswith(PHOTO_SUFFIXES)


def _keys(name: str) -> list[str]:
    """Every tail of a path, longest first: a/b/c.jpg, b/c.jpg, c.jpg."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and "." + suffix.lower() in PHOTO_SUFFIXES else name
