"""Photos decoded once into one array on disk, and read back as a memory map.

Owns the cache's files, their key and the decoding pool. Refuses to know rows: it gets references in, in order, and gives
an array in the same order out. The pixels come from the service's own preprocessing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from app.engine.errors import ImageTooLargeError, ItemError, UndecodableImageError, UnsupportedImageTypeError
from app.engine.images import ALLOWED_FORMATS, IMAGE_PREPROCESSING_VERSION, decode_photo, fit_photo
from scripts.data.errors import CatalogueError
from scripts.data.photo_files import PhotoFiles

# Bump when the files below change their meaning; the preprocessing has a version of its own.
_CACHE_FORMAT = 1
# 100 megapixels: above any camera, below what exhausts a laptop's memory (300 MB a photo while it decodes).
MAX_PHOTO_PIXELS = 100_000_000

# uint8[H, W, 3], "", hash of the file; or None, the problem, ""
Decoded = tuple[NDArray[np.uint8] | None, str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PhotoReference:
    """One file of one source."""

    files: PhotoFiles
    name: str


@dataclass(frozen=True, slots=True)
class DecodedPhotos:
    """What became of N references.

    `pixels` is uint8[K, H, W, 3], K = N less the references that were left out; `problems[i]` of N is "" or why photo i
    is all zeros or left out; `hashes[i]` of N names the file's content ("" where there is none).
    """

    pixels: NDArray[np.uint8]
    problems: list[str]
    hashes: list[str]


def decode_photos(
    references: Sequence[PhotoReference | None],
    droppable: Sequence[bool],
    *,
    height: int,
    width: int,
    cache_dir: Path,
    label: str,
) -> DecodedPhotos:
    """Decode every reference (None gives zeros), or read what an earlier call with the same files has left.

    A photo with a problem is left out of the array where `droppable`, and is all zeros elsewhere. The cache is keyed by
    each file's path, size and modification time, the output size and the preprocessing version.

    Raises:
        CatalogueError: the cache folder cannot be written.
    """

    def decode(reference: PhotoReference | None) -> Decoded:
        return (None, "missing", "") if reference is None else _decode(reference, height, width)

    def produce() -> Iterator[Decoded]:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            yield from _map_in_order(pool, decode, references)

    key = _key(references, droppable, height, width)
    return cached_photos(produce, droppable, key=key, height=height, width=width, cache_dir=cache_dir, label=label)


def cached_photos(
    produce: Callable[[], Iterable[Decoded]],
    droppable: Sequence[bool],
    *,
    key: str,
    height: int,
    width: int,
    cache_dir: Path,
    label: str,
) -> DecodedPhotos:
    """The array under `key`, or else made from `produce()`, which gives one result for each flag of `droppable`.

    Raises:
        CatalogueError: the cache folder cannot be written.
    """
    array_path, index_path = cache_dir / f"photos-{key}.npy", cache_dir / f"photos-{key}.json"
    found = _read(array_path, index_path, len(droppable), (height, width, 3))
    if found is not None:
        return found
    problems: list[str] = []
    hashes: list[str] = []
    temporary = cache_dir / f".photos-{key}-{os.getpid()}.tmp"
    blank = bytes(height * width * 3)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with temporary.open("w+b") as file:
            _write_header(file, (len(droppable), height, width, 3))
            written = 0
            progress = tqdm(produce(), total=len(droppable), desc=label, unit="photo", disable=None)
            for drop, (pixels, problem, content_hash) in zip(droppable, progress, strict=True):
                data = blank if pixels is None else pixels.tobytes()
                problems.append(problem)
                hashes.append(content_hash)
                if pixels is not None or not drop:
                    file.write(data)
                    written += 1
            file.seek(0)  # numpy pads the header so that the first axis can be changed in place
            _write_header(file, (written, height, width, 3))
        # The index is written last: where it exists, the array is whole.
        os.replace(temporary, array_path)
        temporary.write_text(json.dumps({"rows": written, "problems": problems, "hashes": hashes}), encoding="utf-8")
        os.replace(temporary, index_path)
    except OSError as error:
        size_mb = len(droppable) * len(blank) / 1e6
        raise CatalogueError(
            f"The decoded photos ({size_mb:,.0f} MB) cannot be written to {cache_dir}: {error.strerror or error}. "
            "Free some space there or choose another cache folder."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    found = _read(array_path, index_path, len(droppable), (height, width, 3))
    if found is None:
        raise CatalogueError(f"The photo cache in {cache_dir} was changed while it was written; start again.")
    return found


def _read(array_path: Path, index_path: Path, count: int, photo_shape: tuple[int, ...]) -> DecodedPhotos | None:
    try:
        index = json.loads(index_path.read_text(encoding="utf-8"))
        shape = (index["rows"], *photo_shape)
        # An empty file cannot be mapped.
        pixels = np.load(array_path, mmap_mode="r") if shape[0] else np.zeros(shape, np.uint8)
        found = DecodedPhotos(pixels, index["problems"], index["hashes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = pixels.shape == shape and len(found.problems) == len(found.hashes) == count
    return found if whole else None


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _key(references: Sequence[PhotoReference | None], droppable: Sequence[bool], height: int, width: int) -> str:
    digest = hashlib.blake2b(digest_size=12)
    settings = [_CACHE_FORMAT, IMAGE_PREPROCESSING_VERSION, height, width, MAX_PHOTO_PIXELS]
    digest.update(json.dumps(settings).encode())
    sources = list({id(r.files): r.files for r in references if r is not None}.values())
    for number, files in enumerate(sources):
        digest.update(f"\nsource {number} aspect {files.source.aspect_ratio}\n".encode())
        names = [r.name for r in references if r is not None and r.files is files]
        for line in files.fingerprint(names):
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    numbers = {id(files): number for number, files in enumerate(sources)}
    order = [-1 if r is None else numbers[id(r.files)] for r in references]
    digest.update(np.array(order, np.int32).tobytes() + np.array(droppable, bool).tobytes())
    return digest.hexdigest()


def _decode(reference: PhotoReference, height: int, width: int) -> Decoded:
    data = reference.files.read(reference.name)
    if data is None:
        return None, "undecodable", ""
    aspect_ratio = reference.files.source.aspect_ratio
    try:
        if aspect_ratio is None:
            pixels = decode_photo(data, height=height, width=width, max_pixels=MAX_PHOTO_PIXELS)
        else:
            pixels = _decode_squashed(data, height, width, aspect_ratio)
    except UnsupportedImageTypeError:
        return None, "unsupported_type", ""
    except ImageTooLargeError:
        return None, "too_large", ""
    except ItemError:
        return None, "undecodable", ""
    return pixels, "", hashlib.blake2b(data, digest_size=12).hexdigest()


def _decode_squashed(data: bytes, height: int, width: int, aspect_ratio: float) -> NDArray[np.uint8]:
    """Undo a squash: shrink the side that was stretched until width / height is `aspect_ratio` again, then fit."""
    decode_photo(data, height=1, width=1, max_pixels=MAX_PHOTO_PIXELS)  # the service's checks and error types
    try:
        with Image.open(BytesIO(data), formats=ALLOWED_FORMATS) as image:
            upright = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except Exception as error:  # as in `decode_photo`: Pillow's parsers raise far more than OSError
        raise UndecodableImageError("The photo is damaged and cannot be decoded.") from error
    squashed_width, squashed_height = upright.size
    if squashed_width >= squashed_height * aspect_ratio:
        size = (max(1, round(squashed_height * aspect_ratio)), squashed_height)
    else:
        size = (squashed_width, max(1, round(squashed_width / aspect_ratio)))
    return fit_photo(upright.resize(size, Image.Resampling.BICUBIC), height=height, width=width)


def _map_in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], Decoded], items: Iterable[T], *, ahead: int = 256
) -> Iterator[Decoded]:
    """Like `pool.map`, but at most `ahead` results wait in memory."""
    waiting: deque[Future[Decoded]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
