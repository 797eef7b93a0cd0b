"""An image set of TensorFlow Datasets, by name, to rows.

Owns features and splits of the builder. The photos' bytes go through the service's own decoder, not TensorFlow's. Needs
the optional extra `tfds`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.errors import ItemError
from app.engine.images import IMAGE_PREPROCESSING_VERSION, decode_photo
from app.engine.masking import mask_personal_data
from app.engine.text import canonical_title
from scripts.config import CatalogueConfig, RunConfig
from scripts.data.errors import CatalogueError, missing_column_message
from scripts.data.photo_cache import MAX_PHOTO_PIXELS, Decoded, DecodedPhotos, cached_photos
from scripts.data.report import RowIssue
from scripts.data.rows import SourceRows, evenly_spaced, no_photos
from scripts.data.splits import SPLIT_NAMES, complete_split, group_rows


class _ImageSet:
    """A prepared builder, and which of its features mean what."""

    def __init__(self, catalogue: CatalogueConfig) -> None:
        self._tfds, self._builder = _prepare(catalogue)
        self.name = str(self._builder.info.full_name)
        features: Mapping[str, Any] = self._builder.info.features
        kinds = self._tfds.features
        class_labels = tuple(name for name, feature in features.items() if isinstance(feature, kinds.ClassLabel))
        self.label_columns = catalogue.label_columns or class_labels
        if not self.label_columns:
            raise CatalogueError(f"{self.name} has no ClassLabel feature: name its label_columns")
        self.columns = (*self.label_columns, *catalogue.auxiliary_columns)
        images = [name for name, feature in features.items() if isinstance(feature, kinds.Image)]
        if catalogue.image_column is None and len(images) != 1:
            raise CatalogueError(f"{self.name} has {len(images)} image features ({', '.join(images)}): name image_column")
        self.image = catalogue.image_column or images[0]
        self._wanted = (*self.columns, *([catalogue.text_column] if catalogue.text_column else []))
        for name in (self.image, *self._wanted):
            if name not in features:
                raise CatalogueError(
                    missing_column_message(name, purpose="named by the config", available=features, where=self.name)
                )
        if self.image not in images:
            raise CatalogueError(f"{self.name}: {self.image!r} is no image feature; these are: {', '.join(images)}")
        self._features = features
        # A builder whose metadata is not at hand states no splits; nearly every set has these two.
        self._splits = list(self._builder.info.splits) or ["train", "test"]
        self.ignored_splits = [name for name in self._splits if name.casefold() not in SPLIT_NAMES]

    def examples(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(split, example) in a fixed order; the image is still encoded."""
        for name in self._splits:
            if name in self.ignored_splits:
                continue
            decoders = {self.image: self._tfds.decode.SkipDecoding()}
            dataset = self._builder.as_dataset(split=name, decoders=decoders, shuffle_files=False)
            for example in self._tfds.as_numpy(dataset):
                yield SPLIT_NAMES[name.casefold()], example

    def texts(self, example: Mapping[str, Any]) -> list[str]:
        """The labels in the order of `columns`, then the title where one is wanted; "" where unknown."""
        return [_text(self._features[name], example[name]) for name in self._wanted]


def read_tfds(config: RunConfig, *, cache_dir: Path, limit: int | None) -> SourceRows:
    """Prepare the data set (it downloads what is missing) and read its image, label and text features.

    Raises:
        CatalogueError: the extra is not installed, the set is unknown or cannot be prepared, or a feature is missing.
    """
    source = _ImageSet(config.catalogue)
    splits: list[str] = []
    hashes: list[str] = []
    texts: list[list[str]] = []
    for split, example in source.examples():
        splits.append(split)
        hashes.append(hashlib.blake2b(example[source.image], digest_size=12).hexdigest())
        texts.append(source.texts(example))
    unknown = set(config.catalogue.unknown_labels)
    chosen = [int(row) for row in evenly_spaced(len(splits), limit)]
    labelled = [row for row in chosen if any(t and t not in unknown for t in texts[row][: len(source.label_columns)])]
    issues = [RowIssue(row + 1, str(row), "no_label") for row in sorted(set(chosen) - set(labelled))]
    # As in the service: what the model sees in training is what it will see.
    titles = {
        row: mask_personal_data(canonical_title(texts[row][-1])).strip() if config.catalogue.text_column else ""
        for row in labelled
    }
    decoded = _decode_all(source, config, labelled, titles, hashes, cache_dir)
    rows, present = [], []
    for row, problem in zip(labelled, decoded.problems, strict=True):
        if problem:
            reason = "undecodable_photo" if titles[row] else "no_photo_no_title"
            issues.append(RowIssue(row + 1, str(row), reason, problem))
        if titles[row] or not problem:
            rows.append(row)
            present.append(not problem)
    groups = group_rows([titles[row] for row in rows], [hashes[row] for row in rows])
    given = np.array([splits[row] for row in rows], dtype="<U5")
    split_of_row, notes = complete_split(given, groups, seed=config.training.seed)
    if source.ignored_splits:
        notes.append(f"splits left out: {', '.join(source.ignored_splits)}")
    labels: dict[str, NDArray[np.object_]] = {}
    for position, name in enumerate(source.columns):
        values = [texts[row][position] for row in rows]
        labels[name] = np.array(["" if value in unknown else value for value in values], dtype=object)
    return SourceRows(
        source=source.name,
        rows_read=len(chosen),
        photos=decoded.pixels,
        photo_present=np.array(present, bool),
        titles=[titles[row] for row in rows],
        labels=labels,
        row_ids=[str(row) for row in rows],
        split=split_of_row,
        extra_photos=no_photos(0, config.network.image_height, config.network.image_width),
        extra_rows=np.zeros(0, np.int64),
        issues=issues,
        notes=notes,
    )


def _prepare(catalogue: CatalogueConfig) -> tuple[Any, Any]:
    try:
        import tensorflow_datasets as tfds

        import_module("importlib_resources")  # tensorflow-datasets 4.9.10 needs it and does not say so
    except ImportError as error:
        raise CatalogueError(
            'TensorFlow Datasets is not installed: pip install "itemlens[tfds]", or choose another kind of catalogue'
        ) from error
    if not catalogue.dataset:
        raise CatalogueError('catalogue.dataset must name the TensorFlow data set, such as "fashion_mnist"')
    try:
        builder = tfds.builder(catalogue.dataset, data_dir=None if catalogue.path is None else str(catalogue.path))
        builder.download_and_prepare()
    except Exception as error:  # its own errors, TensorFlow's, and whatever a download raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CatalogueError(
            f"The TensorFlow data set {catalogue.dataset!r} cannot be prepared: {reason} "
            "(check the name; without a network, prepare it elsewhere and pass its folder with --data)"
        ) from error
    return tfds, builder


def _decode_all(
    source: _ImageSet, config: RunConfig, rows: list[int], titles: Mapping[int, str], hashes: list[str], cache_dir: Path
) -> DecodedPhotos:
    height, width = config.network.image_height, config.network.image_width
    wanted = set(rows)

    def produce() -> Iterator[Decoded]:
        for row, (_, example) in enumerate(source.examples()):
            if row in wanted:
                yield _decode(example[source.image], hashes[row], height, width)

    settings = f"{IMAGE_PREPROCESSING_VERSION} {height} {width} {source.name} "
    key = hashlib.blake2b((settings + " ".join(hashes[row] for row in rows)).encode(), digest_size=12).hexdigest()
    droppable = [not titles[row] for row in rows]
    return cached_photos(produce, droppable, key=key, height=height, width=width, cache_dir=cache_dir, label="photos")


def _decode(data: bytes, content_hash: str, height: int, width: int) -> Decoded:
    try:
        return decode_photo(data, height=height, width=width, max_pixels=MAX_PHOTO_PIXELS), "", content_hash
    except ItemError as error:
        return None, error.code, ""


def _text(feature: Any, value: Any) -> str:
    """A feature's value as a label or title; "" for TensorFlow Datasets' -1, which means unknown."""
    if hasattr(feature, "int2str"):
        return str(feature.int2str(int(value))) if int(value) >= 0 else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(value)
