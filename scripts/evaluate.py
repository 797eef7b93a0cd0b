"""Print how good a bundle is on a split it was not trained on, or how two bundles differ.

    python -m scripts.evaluate models/fashion/2 --preset fashion --data FOLDER
    python -m scripts.evaluate models/mine/2 --config mine.toml --split val --json quality.json
    python -m scripts.evaluate models/mine/2 --config mine.toml --protocols P3 retrieval
    python -m scripts.evaluate --compare models/mine/1 models/mine/2 --config mine.toml --split val
    python -m scripts.evaluate --compare models/mine/2 models/mine/2 --runtime tensorflow litert --config mine.toml

Accuracy, macro-F1 (classes with at least 10 items) and calibration error (15 bins, debiased) per attribute, for photo and
title (P0), photo only (P1), title only (P2); with class words hidden (P3), with noise (P5), through a simulated phone and
from full-size photos (P6), with misleading titles (P7), and on unseen brands; retrieval, calibration, decisions, out of
domain, hierarchy, agreement. A protocol that does not apply is left out, with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray

from app.engine.errors import BundleError
from app.engine.runtimes import RuntimeName
from scripts.config import ConfigError, RunConfig, add_config_flags, config_from_arguments
from scripts.data.catalogue import Catalogue, CatalogueError, load_catalogue
from scripts.evaluation.comparison import compare
from scripts.evaluation.evaluation import Evaluation, NotApplicable
from scripts.evaluation.figures import Quality
from scripts.evaluation.pictures import draw_evaluation
from scripts.evaluation.protocols import PROTOCOLS, measure_all
from scripts.evaluation.report import comparison_lines, print_quality
from scripts.pictures import draw_predictions
from scripts.served_model import ServedModel

__all__ = ["evaluate_bundle", "main", "print_quality", "runtime_parity"]


def evaluate_bundle(
    model: ServedModel,
    catalogue: Catalogue,
    *,
    split: str = "test",
    digits: NDArray[np.uint8] | None = None,
    protocols: Sequence[str] = (),
) -> Quality:
    """The figures of a bundle on one split, as `scripts.evaluation.protocols.measure_all` gives them: the quick ones (P0
    to P2, abstaining, agreement) and those of `protocols`. `digits` uint8[N, 28, 28]: handwriting that a model of
    something else should not recognise."""
    return measure_all(Evaluation.of_split(model, catalogue, split, digits=digits), protocols)


def runtime_parity(
    tensorflow: ServedModel, litert: ServedModel, catalogue: Catalogue, *, split: str, rows: int = 1000
) -> Quality:
    """How LiteRT's answers differ from TensorFlow's, of one bundle: the least cosine between their embeddings and, per
    attribute, the share of rows with the same label, on up to `rows` rows."""
    chosen = np.flatnonzero(catalogue.split == split)[:rows]
    photos = catalogue.photos[chosen] if tensorflow.reads_photos else None
    titles = [catalogue.titles[i] for i in chosen] if tensorflow.reads_titles else None
    present = catalogue.photo_present[chosen]
    reference, other = (model.run(photos, titles, photo_present=present) for model in (tensorflow, litert))
    answerer = tensorflow.answerer
    cosine = (reference["fused_embedding"] * other["fused_embedding"]).sum(axis=1)
    same = {
        name: float(
            (
                answerer.layout.best_labels(reference["fused_logits"], name)
                == answerer.layout.best_labels(other["fused_logits"], name)
            ).mean()
        )
        for name in answerer.attributes
    }
    return {"rows": len(chosen), "min_cosine": float(cosine.min()), "same_label": same}


def fitted_to(config: RunConfig, model: ServedModel) -> RunConfig:
    """The config with the sizes that the bundle reads, so that any bundle can be asked about any catalogue."""
    image = model.bundle.manifest.inputs.image
    height, width = (image.height, image.width) if image else (0, 0)
    return replace(config, network=replace(config.network, image_height=height, image_width=width))


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    try:
        config = config_from_arguments(arguments)
        if arguments.compare:
            return _compare(arguments, config)
        return _evaluate(arguments, config)
    except (ConfigError, CatalogueError, BundleError, NotApplicable, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1


def _evaluate(arguments: argparse.Namespace, config: RunConfig) -> int:
    model = ServedModel(arguments.bundle, runtime=arguments.runtime[0])
    catalogue = load_catalogue(fitted_to(config, model), cache_dir=arguments.runs / "cache")
    digits = load_digits(arguments.digits) if arguments.digits else None
    evaluation = Evaluation.of_split(model, catalogue, arguments.split, digits=digits, full_size_rows=arguments.full_size_rows)
    quality = measure_all(evaluation, arguments.protocols)
    if arguments.json:
        _write(arguments.json, quality)
    if not arguments.no_pictures:
        pictures = arguments.pictures or arguments.runs / quality["model"]
        draw_evaluation(pictures, evaluation)
        draw_predictions(pictures / f"predictions-{arguments.split}.png", model, catalogue, arguments.split)
        print(f"pictures in {pictures}")
    print_quality(quality)
    return 0


def _compare(arguments: argparse.Namespace, config: RunConfig) -> int:
    evaluations: list[Evaluation] = []
    for place, folder in enumerate(arguments.compare):
        model = ServedModel(folder, runtime=arguments.runtime[-1] if place else arguments.runtime[0])
        catalogue = load_catalogue(fitted_to(config, model), cache_dir=arguments.runs / "cache")
        evaluations.append(Evaluation.of_split(model, catalogue, arguments.split))
    ids = [[evaluation.catalogue.row_ids[row] for row in evaluation.rows] for evaluation in evaluations]
    if ids[0] != ids[1]:
        raise CatalogueError("the two bundles can use different rows of this catalogue, so they cannot be compared on it")
    comparison = compare(*evaluations)
    if arguments.json:
        _write(arguments.json, comparison)
    print("\n".join(comparison_lines(comparison)))
    return 0


def _write(path: Path, figures: Quality) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n")


def load_digits(path: Path) -> NDArray[Any]:
    """uint8[N, 28, 28], the test digits of an `mnist.npz`. Raises CatalogueError when it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays["x_test"])
    except (KeyError, ValueError) as error:
        raise CatalogueError(f"{path.name} is no mnist.npz: it has no array x_test ({error})") from error


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, nargs="?", help="a bundle's folder, such as models/fashion/2")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two bundles' folders, side by side")
    add_config_flags(parser)
    runtimes: tuple[RuntimeName, ...] = ("tensorflow", "litert")
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="default: test")
    parser.add_argument(
        "--runtime",
        default=["litert"],
        nargs="+",
        choices=runtimes,
        help="default: litert, which serves by default; with --compare one for each",
    )
    parser.add_argument(
        "--protocols",
        nargs="*",
        default=list(PROTOCOLS),
        choices=list(PROTOCOLS),
        metavar="NAME",
        help=f"what to measure besides P0 to P2 (default: all; none after the flag: nothing more): {', '.join(PROTOCOLS)}",
    )
    parser.add_argument(
        "--full-size-rows", type=int, default=400, help="rows whose full-size photos are made and decoded (default: 400)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder with the cache of decoded photos (default: runs)"
    )
    parser.add_argument("--digits", type=Path, help="an mnist.npz, to see whether handwriting is recognised as foreign")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures (default: runs/<model>)")
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args(argv)
    if (arguments.bundle is None) == (arguments.compare is None):
        parser.error("name one bundle, or two after --compare")
    if len(arguments.runtime) > (2 if arguments.compare else 1):
        parser.error("--runtime takes one name, or two with --compare")
    if arguments.full_size_rows < 1:
        parser.error("--full-size-rows must be at least 1")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
