"""Fit a bundle's confidences to labelled items, without training: yours, or its own validation split again.

    python -m scripts.recalibrate models/fashion/2 --preset fashion --data FOLDER
    python -m scripts.recalibrate models/fashion/2 --config my-shop.toml --split train

A model trained on one shop's photos is too sure, or not sure enough, on another's. This writes the next version of the bundle
with the same network and new temperatures, thresholds and limits from a split of your labelled items; its figures, on the
split named by --report-split, say how well it does on them. The embedding space stays: no index is to be built anew.

Labels and columns must bear the model's own names; rows with other labels count as unlabelled. Some hundreds of rows
give thresholds for the usual precisions, few give none (`review`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray

from app.engine.errors import BundleError
from scripts.batches import group_titles
from scripts.calibrate import calibrate_outputs
from scripts.config import ConfigError, RunConfig, add_config_flags, config_from_arguments
from scripts.data.catalogue import Catalogue, CatalogueError, load_catalogue
from scripts.evaluate import fitted_to, print_quality
from scripts.evaluation.figures import truth_indices
from scripts.export import ExportError, new_bundle, next_version, write_json
from scripts.labels import UNKNOWN
from scripts.sealed_figures import seal_with_figures
from scripts.served_model import Outputs, ServedModel


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    try:
        return recalibrate(arguments, config_from_arguments(arguments))
    except (ConfigError, CatalogueError, ExportError, BundleError, OSError) as error:
        print(f"recalibrate: {error}", file=sys.stderr)
        return 1


def recalibrate(arguments: argparse.Namespace, config: RunConfig) -> int:
    source: Path = arguments.bundle
    model = ServedModel(source)
    config = fitted_to(config, model)
    catalogue = load_catalogue(config, cache_dir=arguments.runs / "cache")
    for split in (arguments.split, arguments.report_split):
        if not (catalogue.split == split).any():
            raise CatalogueError(f"the catalogue has no row in split {split!r}")
    calibration = calibration_on(model, catalogue, arguments.split, seed=config.training.seed)

    old = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    version = arguments.version or next_version(source.resolve().parent)
    calibrated = f"Calibrated anew from version {old['version']} on {int((catalogue.split == arguments.split).sum()):,} rows"
    note = ". ".join(filter(None, [old["training"].get("note"), calibrated]))
    manifest: dict[str, Any] = {**old, "version": version, "training": {**old["training"], "note": note}}
    destination = source.resolve().parent / str(version)
    with new_bundle(destination, replace_existing=arguments.version is not None) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        write_json(folder / "calibration.json", calibration)
        _, quality = seal_with_figures(folder, manifest, config=config, catalogue=catalogue, split=arguments.report_split)
    print_quality(quality)
    print(f"{destination.relative_to(Path.cwd()) if destination.is_relative_to(Path.cwd()) else destination} written")
    return 0


def calibration_on(model: ServedModel, catalogue: Catalogue, split: str, *, seed: int) -> dict[str, Any]:
    """`calibration.json` from the bundle's own answers on a split of a catalogue."""
    rows = np.flatnonzero(catalogue.split == split)
    titles = [catalogue.titles[row] for row in rows]
    photos = catalogue.photos[rows]
    present = catalogue.photo_present[rows] & model.reads_photos

    def ask(chosen: NDArray[np.int64], photos: NDArray[np.uint8], titles: list[str]) -> Outputs:
        return model.run(photos, titles, photo_present=present[chosen], progress=f"asking about {split}, changed")

    outputs = model.run(
        photos if model.reads_photos else None,
        titles if model.reads_titles else None,
        photo_present=present,
        progress=f"asking about {split}",
    )
    answerer = model.answerer
    blank = np.full(len(catalogue.split), "", object)
    names = dict.fromkeys([*answerer.attributes, *answerer.hierarchy])
    labels = {name: np.asarray(catalogue.labels.get(name, blank), object)[rows] for name in names}
    for child, parent in pairwise(reversed(answerer.hierarchy)):
        # As in training, an item's finer label says the coarser ones.
        said = [answerer.layout.parent_label[child].get(label, "") for label in labels[child]]
        labels[parent] = np.where(labels[parent] == "", said, labels[parent])
    truth = truth_indices(answerer, labels)
    return calibrate_outputs(
        outputs,
        {name: np.maximum(index, UNKNOWN) for name, index in truth.items()},
        ask=ask,
        photos=photos,
        titles=titles,
        labels_json=model.bundle.labels_json,
        photo_present=present,
        title_present=np.array([bool(title.strip()) for title in titles], bool) & model.reads_titles,
        title_group=group_titles(titles),
        reads_titles=model.reads_titles,
        seed=seed,
    )


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.recalibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="a bundle's folder, such as models/fashion/2")
    add_config_flags(parser)
    splits = ("train", "val", "test")
    parser.add_argument("--split", default="val", choices=splits, help="split to calibrate on (default: val)")
    parser.add_argument("--report-split", default="test", choices=splits, help="split of the printed figures (default: test)")
    parser.add_argument("--version", type=int, help="version to write, replacing it if it is there (default: the next free)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder with the cache of photos (default: runs)")
    arguments = parser.parse_args(argv)
    if arguments.split == arguments.report_split:
        parser.error("--split and --report-split must differ: figures on the rows it was calibrated on flatter")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
