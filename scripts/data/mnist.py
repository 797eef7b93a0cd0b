"""MNIST, from a local `mnist.npz` or Keras' own loader, to rows.

Owns the file's layout and the split. LeCun, Cortes and Burges 1998; 60,000 training and 10,000 test digits of 28x28.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engine.images import fit_photo
from scripts.config import RunConfig
from scripts.data.errors import CatalogueError
from scripts.data.rows import SourceRows, evenly_spaced, no_photos

LABEL_COLUMN = "digit"
# Taken out of train to choose thresholds and temperatures: at 99 % right, 2,000 rows pin the accuracy down to ±0.4 points.
VAL_ROWS = 2_000
_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_mnist(config: RunConfig, *, limit: int | None) -> SourceRows:
    """Read all digits, grey repeated to RGB; train in file order, then test.

    Raises:
        CatalogueError: the file is missing or not MNIST's, or the download failed.
    """
    columns = config.catalogue.label_columns or (LABEL_COLUMN,)
    if len(columns) > 1:
        raise CatalogueError(f"MNIST has one label; name one label column, not {len(columns)}")
    path = config.catalogue.path
    arrays = _download() if path is None else _load(path / "mnist.npz" if path.is_dir() else path)
    x_train, y_train, x_test, y_test = arrays
    split = np.array(["train"] * len(x_train) + ["test"] * len(x_test), dtype="<U5")
    chosen = evenly_spaced(len(split), limit)
    split = split[chosen]
    train = np.flatnonzero(split == "train")
    val_rows = min(VAL_ROWS, len(train) // 10)
    split[np.random.default_rng(config.training.seed).permutation(train)[:val_rows]] = "val"
    digits = np.concatenate([x_train, x_test])[chosen]
    labels = np.concatenate([y_train, y_test])[chosen]
    photos = _rgb(digits, config.network.image_height, config.network.image_width)
    return SourceRows(
        source="MNIST",
        rows_read=len(chosen),
        photos=photos,
        photo_present=np.ones(len(chosen), bool),
        titles=[""] * len(chosen),
        labels={columns[0]: labels.astype(str).astype(object)},
        row_ids=[str(row) for row in chosen],
        split=split,
        extra_photos=no_photos(0, *photos.shape[1:3]),
        extra_rows=np.zeros(0, np.int64),
        notes=[f"val is {val_rows:,} rows of train"],
    )


def _rgb(digits: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """uint8[N, height, width, 3]: at the digits' own size a view that repeats the grey channel and takes no memory."""
    if digits.shape[1:] == (height, width):
        return np.broadcast_to(digits[..., None], (*digits.shape, 3))
    photos = np.empty((len(digits), height, width, 3), np.uint8)
    for row, digit in enumerate(digits):
        photos[row] = fit_photo(Image.fromarray(digit), height=height, width=width)
    return photos


def _load(path: Path) -> list[NDArray[np.uint8]]:
    if not path.is_file():
        raise CatalogueError(f"there is no {path}: pass --data with mnist.npz or the folder that holds it")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[key] for key in _KEYS]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise CatalogueError(f"{path} is not Keras' mnist.npz ({', '.join(_KEYS)}): {error}") from error
    for images, labels in (arrays[:2], arrays[2:]):
        if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1] or not len(images):
            raise CatalogueError(f"{path} is not Keras' mnist.npz: images must be uint8[N, H, W] with N labels")
    return arrays


def _download() -> list[NDArray[np.uint8]]:
    import keras

    try:
        train, test = keras.datasets.mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception when the download fails
        raise CatalogueError(
            f"MNIST could not be downloaded ({error}). Pass --data with an mnist.npz that was downloaded elsewhere."
        ) from error
    return [*train, *test]
