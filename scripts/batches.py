"""Rows of a catalogue to batches of the network's inputs and targets, one epoch at a time.

Owns shuffling, missing inputs, made outliers and swapped titles. Backend-neutral (numpy in, numpy out), so that one
script trains on TensorFlow, JAX and torch. What is random follows from (seed, epoch), so a resumed run sees the batches of
an uninterrupted one, but for one thing: the tokenizer library cuts some titles into rougher pieces (`encode_many`'s
`dropout`) from a source of its own that takes no seed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine.text import TitleTokenizer, clean_title
from scripts.handheld_photos import handheld_photo
from scripts.outliers import outlier_photo, outlier_title
from scripts.title_augmentation import TitleAugmentation, class_stems

OUTLIER_SHARE = 0.06
SWAPPED_TITLE_SHARE = 0.04
EXTRA_PHOTO_SHARE = 0.5
MadePhotos = tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.bool_]]
"""Of a batch: which photos are not the rows' own bool[B], those uint8[K, H, W, 3], and the outliers bool[B]."""


@dataclass(frozen=True)
class Rows:
    """The part of a catalogue a network reads. Photos uint8[N, H, W, 3]; `labels` int32[N, C]."""

    photos: NDArray[np.uint8]
    photo_present: NDArray[np.bool_]
    extra_photos: NDArray[np.uint8]
    extra_of_row: Mapping[int, int]
    titles: Sequence[str]
    labels: NDArray[np.int32]
    title_group: NDArray[np.int32]

    def resized(self, height: int, width: int) -> Rows:
        """The same rows with smaller photos."""
        if self.photos.shape[1:3] == (height, width):
            return self
        return Rows(
            _resize(self.photos, height, width),
            self.photo_present,
            _resize(self.extra_photos, height, width),
            self.extra_of_row,
            self.titles,
            self.labels,
            self.title_group,
        )


def group_titles(titles: Sequence[str]) -> NDArray[np.int32]:
    """int32[N], equal where the cleaned titles are equal."""
    groups: dict[str, int] = {}
    return np.array([groups.setdefault(clean_title(title), len(groups)) for title in titles], np.int32)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Whole batches of `rows` (at least 1); one shorter batch where there is not a whole one."""
    return max(1, rows // min(batch_size, rows))


class TrainingBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """One epoch over `train_rows`, shuffled, augmented, `batch_size` rows at a time (the last short batch is dropped
    when there is at least one whole one)."""

    def __init__(
        self,
        rows: Rows,
        train_rows: NDArray[np.int64],
        *,
        tokenizer: TitleTokenizer | None,
        label_names: Sequence[str],
        batch_size: int,
        seed: int,
        epoch: int,
        strokes_are_outliers: bool,
        title_changes: float = 1.0,
        swapped_title_share: float = SWAPPED_TITLE_SHARE,
        handheld_photo_share: float = 0.0,
        taught: NDArray[np.float16] | None = None,
    ) -> None:
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=6)
        self._rows, self._batch_size = rows, min(batch_size, len(train_rows))
        self._generator = np.random.default_rng([seed, epoch])
        self._order = self._generator.permutation(train_rows)
        self._strokes = strokes_are_outliers
        self._title_changes = title_changes
        self._swapped_title_share = swapped_title_share
        self._handheld_photo_share = handheld_photo_share
        self._taught = taught
        self._made: Sequence[MadePhotos] = ()
        self._swapped = np.zeros(len(rows.titles), np.float32)
        self._gibberish = np.zeros(len(rows.titles), np.float32)
        self._tokens = np.zeros((len(rows.titles), 1), np.int32)
        self._text_present = np.zeros(len(rows.titles), bool)
        if tokenizer is not None:
            self._tokens = self._encode(tokenizer, label_names, seed * 100_003 + epoch)
            self._text_present = (self._tokens != 0).any(axis=1)

    def __len__(self) -> int:
        return steps_per_epoch(len(self._order), self._batch_size)

    def __getitem__(self, batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
        chosen = self._chosen(batch)
        changed, pixels, outlier = self._made[batch] if self._made else self._make(batch)
        photos = np.array(self._rows.photos[chosen])
        photos[changed] = pixels
        photo_present = self._rows.photo_present[chosen]
        return self._items(chosen, image=photos, image_present=photo_present, image_familiar=~outlier)

    def made(self, batches: range) -> list[MadePhotos]:
        """Draw now what is else drawn when each of these batches is asked for. The titles have no part in it."""
        return [self._make(batch) for batch in batches]

    def _make(self, batch: int) -> MadePhotos:
        rows, generator = self._rows, np.random.default_rng([int(self._order[0]), batch, len(self._order)])
        chosen = self._chosen(batch)
        photos = np.array(rows.photos[chosen])
        changed = np.zeros(len(chosen), bool)
        for slot, row in enumerate(chosen):
            extra = rows.extra_of_row.get(int(row))
            if extra is not None and generator.random() < EXTRA_PHOTO_SHARE:
                photos[slot], changed[slot] = rows.extra_photos[extra], True
        photo_present = rows.photo_present[chosen]
        outlier = (generator.random(len(chosen)) < OUTLIER_SHARE) & photo_present
        height, width = photos.shape[1:3]
        if self._handheld_photo_share:
            handheld = (generator.random(len(chosen)) < self._handheld_photo_share) & photo_present
            for slot in np.flatnonzero(handheld).tolist():
                photos[slot], changed[slot] = handheld_photo(generator, photos[slot]), True
        for slot in np.flatnonzero(outlier).tolist():
            photos[slot], changed[slot] = outlier_photo(generator, height, width, photos[slot], strokes=self._strokes), True
        return changed, photos[changed], outlier

    def __getstate__(self) -> dict[str, Any]:
        """All but the rows and what teachers said of them, which the receiving process has: see `attach`."""
        return self.__dict__ | {"_rows": None, "_taught": None}

    def attach(self, rows: Rows, taught: NDArray[np.float16] | None, made: Sequence[MadePhotos]) -> None:
        """Give back what a journey from another process has left out, and the photos of all batches, made in advance."""
        self._rows, self._taught, self._made = rows, taught, made

    def _chosen(self, batch: int) -> NDArray[np.int64]:
        """The rows of a batch."""
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]

    def _items(
        self,
        chosen: NDArray[np.int64],
        *,
        image: NDArray[Any],
        image_present: NDArray[np.bool_],
        image_familiar: NDArray[np.bool_],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The inputs and targets of the chosen rows; only what stands for their photos differs from kind to kind."""
        x = {
            "image": image,
            "token_ids": self._tokens[chosen],
            "image_present": image_present,
            "text_present": self._text_present[chosen],
        }
        y = {
            "labels": self._rows.labels[chosen],
            "image_familiar": image_familiar.astype(np.float32),
            "text_familiar": 1.0 - self._gibberish[chosen],
            "text_matches": 1.0 - self._swapped[chosen],
            "title_group": self._rows.title_group[chosen],
        }
        if self._taught is not None:
            y["taught"] = self._taught[chosen].astype(np.float32)
        return x, y

    def _encode(self, tokenizer: TitleTokenizer, label_names: Sequence[str], seed: int) -> NDArray[np.int32]:
        rng = random.Random(seed)
        # Of the training rows alone: another split's title must not be read here, not even beside a wrong photo.
        own = [self._rows.titles[row] for row in sorted(self._order.tolist())]
        words = sorted({word for title in own[:2000] for word in clean_title(title).split() if len(word) > 3})
        augment = TitleAugmentation(class_stems(label_names), [word.lower() for word in label_names], seed, self._title_changes)
        titles = []
        for row, title in enumerate(self._rows.titles):
            draw = rng.random()
            if title and draw < OUTLIER_SHARE:
                self._gibberish[row] = 1.0
                titles.append(outlier_title(rng, words))
            elif title and self._rows.photo_present[row] and draw < OUTLIER_SHARE + self._swapped_title_share:
                self._swapped[row] = 1.0
                titles.append(augment(rng.choice(own)))
            else:
                titles.append(augment(title) if title else "")
        plain = tokenizer.encode_many(titles)
        rough = tokenizer.encode_many(titles, dropout=0.1)
        return np.where((np.array([rng.random() for _ in titles]) < 0.3 * self._title_changes)[:, None], rough, plain)


class FeatureBatches(TrainingBatches):
    """The same rows with what a held photo branch makes of their photos: `features` float32[N, F] in place of `image`,
    `familiar` bool[N] where the photo behind it is real and no made outlier, `own_share` float32[N] how much of it is the
    row's own. N counts all rows, not only `train_rows`."""

    def __init__(
        self,
        rows: Rows,
        train_rows: NDArray[np.int64],
        *,
        features: NDArray[np.float32],
        familiar: NDArray[np.bool_],
        own_share: NDArray[np.float32],
        feature_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(rows, train_rows, **options)
        self._features, self._familiar, self._own_share = features, familiar, own_share
        self._feature_dropout = feature_dropout

    def __getitem__(self, batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
        chosen = self._chosen(batch)
        features = self._features[chosen]
        if self._feature_dropout:
            kept = np.random.default_rng([int(self._order[0]), batch, 1]).random(features.shape) >= self._feature_dropout
            features = (features * kept / (1.0 - self._feature_dropout)).astype(np.float32)
        x, y = self._items(
            chosen,
            image=features,
            image_present=self._rows.photo_present[chosen],
            image_familiar=self._familiar[chosen],
        )
        return x, y | {"own_share": self._own_share[chosen]}


def _resize(photos: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    smaller = np.empty((len(photos), height, width, 3), np.uint8)
    for row, photo in enumerate(photos):
        smaller[row] = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))
    return smaller
