"""The state of a training run on disk: enough to go on after the last whole epoch.

Owns one file per run, `checkpoint.npz`, replaced atomically after every epoch. The variables and
the epoch's number are the whole state; how far a resumed run repeats an uninterrupted one, `scripts.batches` says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np


def save_checkpoint(path: Path, model: keras.Model, optimizers: Sequence[keras.Optimizer], state: dict[str, Any]) -> None:
    """Write all variables and `state` (JSON) to `path`, or leave the old file as it was. A model may say which of its variables
    are kept (`Recogniser.kept_variables`)."""
    arrays = {f"v{i:04d}": np.asarray(v) for i, v in enumerate(_variables(model, optimizers))}
    arrays["state"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    temporary = path.with_suffix(".partial.npz")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def stored_state(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as `state`."""
    with np.load(path, allow_pickle=False) as stored:
        state: dict[str, Any] = json.loads(stored["state"].tobytes())
    return state


def restore_checkpoint(path: Path, model: keras.Model, optimizers: Sequence[keras.Optimizer]) -> dict[str, Any]:
    """Put the variables back and return the stored state.

    Raises ValueError when the checkpoint belongs to another network.
    """
    with np.load(path, allow_pickle=False) as stored:
        variables = _variables(model, optimizers)
        arrays = [stored[name] for name in sorted(stored.files) if name != "state"]
        if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
            raise ValueError(f"{path} was written by a run with another network or catalogue; start a new run folder")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        state: dict[str, Any] = json.loads(stored["state"].tobytes())
    return state


def _variables(model: keras.Model, optimizers: Sequence[keras.Optimizer]) -> list[Any]:
    of_optimizers = [variable for optimizer in optimizers for variable in optimizer.variables]
    return [*getattr(model, "kept_variables", model.variables), *of_optimizers]
