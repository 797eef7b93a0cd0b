"""Ways in which a bundle gets damaged: what a broken copy, a failing disk or an attacker leaves behind.

Owns the damage. Every function changes a good bundle's folder in place.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.tiny_bundle import seal


def truncate(folder: Path) -> None:
    path = folder / "model.tflite"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(folder: Path) -> None:
    flip(folder / "model.tflite", 12_345)


def remove_a_file(folder: Path) -> None:
    (folder / "calibration.json").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("left by mistake")


def change_a_hash(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"sha256": "', b'"sha256": "0', 1))


def link_a_file(folder: Path) -> None:
    (folder / "model.tflite").rename(folder.parent / "model.tflite")
    (folder / "model.tflite").symlink_to(folder.parent / "model.tflite")


def bring_h5(folder: Path) -> None:
    """A sealed bundle with a Keras archive in the old format beside its model."""
    (folder / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    seal(folder)


def bring_pickle(folder: Path) -> None:
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps({"a": 1}))
    seal(folder)


def pickle_the_golden_arrays(folder: Path) -> None:
    """A sealed bundle whose arrays are objects, which numpy would unpickle if it were let."""
    with np.load(folder / "golden.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["input_image"] = np.array([{"a": 1}], dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (folder / "golden.npz").write_bytes(buffer.getvalue())
    seal(folder)


def pickle_the_model(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(pickle.dumps({"a": 1}))
    (folder / "saved_model.pb").write_bytes(pickle.dumps({"a": 1}))
    seal(folder)


DAMAGE: dict[str, Callable[[Path], None]] = {
    change.__name__: change
    for change in (
        truncate,
        flip_a_bit,
        remove_a_file,
        add_a_file,
        change_a_hash,
        link_a_file,
        bring_h5,
        bring_pickle,
        pickle_the_golden_arrays,
        pickle_the_model,
    )
}


def flip(path: Path, bit: int) -> None:
    """Flip one bit, counted from the file's beginning and around its end."""
    data = bytearray(path.read_bytes())
    place, position = divmod(bit % (8 * len(data)), 8)
    data[place] ^= 1 << position
    path.write_bytes(data)
