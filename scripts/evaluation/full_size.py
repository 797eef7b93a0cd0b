"""Does a photo of production size get the answer that its thumbnail gets?

Owns the making of full-size files: a catalogue's more detailed extra photo, its squash undone, enlarged to 1,440 pixels of
height, encoded, and decoded by the service's own path. Nothing is gained in detail; what is tested is that the service
reads the product and not the resolution or the file format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import combinations, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from app.engine.answers import OUTPUT_OF_PATTERN
from app.engine.images import ALLOWED_FORMATS, decode_photo
from app.engine.items import Pattern
from scripts.data.row_photos import encoded_extra_photos
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import Quality, attribute_quality
from scripts.served_model import Outputs

FULL_HEIGHT = 1440
THUMBNAIL = "thumbnail"
DETAILED = "detailed"
FULL_SIZE = "full size, JPEG"
_MAX_PIXELS = 50_000_000
# PNG and WebP at their fastest: how hard the encoder tried does not change a pixel of a PNG, and little of a WebP.
_FORMATS: Mapping[str, tuple[str, dict[str, int]]] = {
    FULL_SIZE: ("JPEG", {"quality": 90}),
    "full size, PNG": ("PNG", {"compress_level": 1}),
    "full size, WebP": ("WEBP", {"quality": 90, "method": 0}),
}


def encoded_sizes(data: bytes, aspect_ratio: float | None) -> dict[str, bytes]:
    """The files of one product: `detailed` is the extra photo with its squash undone, the others are `FULL_HEIGHT` high.

    `aspect_ratio` is width / height of the true shape; None keeps the file's.
    """
    with Image.open(BytesIO(data), formats=ALLOWED_FORMATS) as opened:
        image = opened.convert("RGB")
    ratio = aspect_ratio or image.width / image.height
    files = {}
    detailed = image.resize((max(1, round(image.height * ratio)), image.height), Image.Resampling.BICUBIC)
    files[DETAILED] = _encode(detailed, "JPEG", {"quality": 95})
    full = image.resize((max(1, round(FULL_HEIGHT * ratio)), FULL_HEIGHT), Image.Resampling.BICUBIC)
    return files | {name: _encode(full, kind, options) for name, (kind, options) in _FORMATS.items()}


def _encode(image: Image.Image, kind: str, options: Mapping[str, int]) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def measure_full_size(evaluation: Evaluation) -> Quality:
    """`n` rows; `sizes` maps each size to its accuracies per pattern and attribute; `same_label` maps "a = b" to the share
    of rows with one label per pattern and attribute."""
    evaluation.need("image")
    sources = evaluation.catalogue.config.catalogue.extra_photos
    if not sources or not evaluation.catalogue.photo_cells:
        raise NotApplicable("the catalogue names no source of larger photos (extra_photos)")
    rows, photos = _decoded(evaluation)
    if not len(rows):
        raise NotApplicable(f"no row of {evaluation.name} has a larger photo")
    titles = [evaluation.titles[row] for row in rows] if evaluation.titles is not None else None
    outputs = {name: evaluation.others(f"photos: {name}", photos=pixels, titles=titles) for name, pixels in photos.items()}
    truth = {name: target[rows] for name, target in evaluation.truth.items()}
    result: Quality = {"n": len(rows), "sizes": {}, "same_label": {}}
    patterns: list[Pattern] = [p for p in ("both", "image") if p in evaluation.patterns and evaluation.usable(p)[rows].any()]
    for name, output in outputs.items():
        result["sizes"][name] = {
            pattern: attribute_quality(evaluation.answerer, output, truth, pattern, evaluation.usable(pattern)[rows])
            for pattern in patterns
        }
    for first, second in combinations(outputs, 2):
        result["same_label"][f"{first} = {second}"] = {
            pattern: same_labels(evaluation, outputs[first], outputs[second], pattern, evaluation.usable(pattern)[rows])
            for pattern in patterns
        }
    return result


def same_labels(
    evaluation: Evaluation, first: Outputs, second: Outputs, pattern: Pattern, usable: NDArray[np.bool_]
) -> dict[str, float]:
    """Per attribute the share of usable rows that get one label from both."""
    name = f"{OUTPUT_OF_PATTERN[pattern]}_logits"
    best = evaluation.answerer.layout.best_labels
    return {
        attribute: float((best(first[name][usable], attribute) == best(second[name][usable], attribute)).mean())
        for attribute in evaluation.attributes
    }


def _decoded(evaluation: Evaluation) -> tuple[NDArray[np.int64], dict[str, NDArray[np.uint8]]]:
    """Positions of the rows that have a larger photo, at most `full_size_rows`, and their decoded photos per size."""
    catalogue, spec = evaluation.catalogue, evaluation.model.spec
    # In an order of chance, so that the first so many stand for all.
    order = np.random.default_rng(evaluation.seed).permutation(np.flatnonzero(evaluation.photo_present))
    cells = [catalogue.photo_cells[evaluation.rows[place]] for place in order]
    found = islice(encoded_extra_photos(cells, catalogue.config.catalogue.extra_photos), evaluation.full_size_rows)
    rows: list[int] = []
    photos: dict[str, list[NDArray[np.uint8]]] = {}

    def work(item: tuple[int, bytes, float | None]) -> tuple[int, dict[str, NDArray[np.uint8]]]:
        index, data, aspect_ratio = item
        return index, {
            name: decode_photo(file, height=spec.image_height, width=spec.image_width, max_pixels=_MAX_PIXELS)
            for name, file in encoded_sizes(data, aspect_ratio).items()
        }

    with ThreadPoolExecutor() as pool, tqdm(desc="full-size photos", unit="photo") as bar:
        for chunk in _chunks(found, 32):
            for index, decoded in pool.map(work, chunk):
                place = int(order[index])
                rows.append(place)
                for name, pixels in {THUMBNAIL: catalogue.photos[evaluation.rows[place]], **decoded}.items():
                    photos.setdefault(name, []).append(pixels)
                bar.update()
    return np.array(rows, np.int64), {name: np.stack(pixels) for name, pixels in photos.items()}


def _chunks(items: Iterator[tuple[int, bytes, float | None]], size: int) -> Iterator[list[tuple[int, bytes, float | None]]]:
    while chunk := list(islice(items, size)):
        yield chunk
