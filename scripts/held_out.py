"""Rows that a run keeps from its training because of what they are: brands or kinds that shall be new to the model.

Owns the flag and its meaning. What is new to a model is the only honest measure of how it does on what it has never seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.data.catalogue import Catalogue, CatalogueError


def held_out_rows(catalogue: Catalogue, labels: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
    """bool[rows]: which carry one of these labels, by column, and are kept from training.

    Raises CatalogueError when no row does, or none is left to train on."""
    held_out = np.zeros(len(catalogue.titles), bool)
    for column, names in labels.items():
        if column not in catalogue.labels:
            raise CatalogueError(f"--hold-out: there is no label column {column!r}; there are {', '.join(catalogue.labels)}")
        chosen = np.isin(np.asarray(catalogue.labels[column], object).astype(str), list(names))
        if not chosen.any():
            raise CatalogueError(f"--hold-out: no row has {' or '.join(map(repr, names))} in column {column!r}")
        held_out |= chosen
    if labels and not (~held_out & (catalogue.split == "train")).any():
        raise CatalogueError("--hold-out leaves no row to train on")
    if labels:
        print(f"{int((held_out & (catalogue.split == 'train')).sum()):,} training rows are held out", flush=True)
    return held_out


def held_out_labels(labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """For the manifest: `labels` by column, and `brands`, which `evaluate` compares with the others."""
    brands = [name for column, names in labels.items() if "brand" in column.lower() for name in names]
    return ({"labels": {column: list(names) for column, names in labels.items()}} if labels else {}) | (
        {"brands": brands} if brands else {}
    )


def column_and_labels(text: str) -> tuple[str, list[str]]:
    """`COLUMN=LABEL,LABEL` of the command line. Raises argparse.ArgumentTypeError."""
    column, _, names = text.partition("=")
    labels = [name for name in names.split(",") if name]
    if not column or not labels:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=LABEL or COLUMN=LABEL,LABEL")
    return column, labels
