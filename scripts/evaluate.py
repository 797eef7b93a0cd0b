"""Print how good a bundle is on a split it was not trained on.

    python -m scripts.evaluate models/fashion/2 --preset fashion --data fashion-data
    python -m scripts.evaluate models/mine/2 --config mine.toml --split val --runtime litert --json quality.json

Accuracy, macro-F1 (classes with at least 10 items) and calibration error (15 bins, debiased) per attribute, for photo +
title, photo only and title only; what is accepted at precision 0.98 and how right it is; how much in-domain and
out-of-domain input abstains; whether `agreement` notices swapped titles.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray

from app.engine.answers import PATTERNS
from app.engine.errors import BundleError
from app.engine.images import fit_photo
from scripts.config import ConfigError, add_config_flags, config_from_arguments
from scripts.data.catalogue import Catalogue, CatalogueError, load_catalogue
from scripts.pictures import draw_predictions
from scripts.quality import (
    Quality,
    abstaining_share,
    agreement_quality,
    answers,
    attribute_quality,
    decision_quality,
    truth_indices,
)
from scripts.served_model import ServedModel

TITLES = {"both": "photo + title", "image": "photo only", "text": "title only"}
FOREIGN_ITEMS = 500


def evaluate_bundle(
    model: ServedModel,
    catalogue: Catalogue,
    *,
    split: str = "test",
    digits: NDArray[np.uint8] | None = None,
) -> Quality:
    """All figures of a bundle on one split, as JSON-ready values. `digits` uint8[N, 28, 28]: handwriting that a model of
    something else should not recognise."""
    chosen = np.flatnonzero(catalogue.split == split)
    if not len(chosen):
        raise CatalogueError(f"the catalogue has no row in split {split!r}")
    photos = catalogue.photos[chosen] if model.reads_photos else None
    titles = [catalogue.titles[i] for i in chosen] if model.reads_titles else None
    photo_present = catalogue.photo_present[chosen] & model.reads_photos
    title_present = np.array([bool(title.strip()) for title in titles]) if titles else np.zeros(len(chosen), bool)
    usable = {"both": photo_present & title_present, "image": photo_present, "text": title_present}
    outputs = model.run(photos, titles, photo_present=photo_present, progress=f"evaluating on {split}")
    truth = truth_indices(model.answerer, {name: catalogue.labels[name][chosen] for name in model.answerer.attributes})
    quality: Quality = {
        "model": model.bundle.name,
        "version": model.bundle.version,
        "split": split,
        "rows": len(chosen),
        "runtime": model.runtime.name,
        "patterns": {},
        "abstaining": {},
        "agreement": None,
    }
    for pattern in PATTERNS:
        rows = usable[pattern]
        if not rows.any():
            continue
        figures = attribute_quality(model.answerer, outputs, truth, pattern, rows)
        given = answers(
            model.answerer,
            {name: value[rows] for name, value in outputs.items()},
            image=pattern != "text",
            text=pattern != "image",
        )
        decisions, abstaining = decision_quality(model.answerer, given, {name: t[rows] for name, t in truth.items()})
        for name, entry in figures.items():
            entry.update(decisions[name])
        quality["patterns"][pattern] = figures
        quality["abstaining"][f"{split}, {TITLES[pattern]}"] = abstaining
    quality["abstaining"] |= foreign_abstaining(model, digits)
    if usable["both"].any() and titles is not None:
        name = model.answerer.hierarchy[-1] if model.answerer.hierarchy else model.answerer.attributes[0]
        both = usable["both"]
        quality["agreement"] = agreement_quality(
            model.answerer,
            {k: v[both] for k, v in outputs.items()},
            [title for title, keep in zip(titles, both, strict=True) if keep],
            truth[name][both],
        )
    return quality


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


def foreign_abstaining(model: ServedModel, digits: NDArray[np.uint8] | None) -> dict[str, float]:
    """Share that abstains of noise photos, gibberish titles and (where given) handwritten digits."""
    result: dict[str, float] = {}
    answerer = model.answerer

    def share(photos: NDArray[np.uint8] | None, titles: list[str] | None) -> float:
        outputs = model.run(photos, titles)
        return abstaining_share(answers(answerer, outputs, image=photos is not None, text=titles is not None))

    size = (model.spec.image_height, model.spec.image_width)
    rng = np.random.default_rng(7)
    if model.reads_photos:
        noise = rng.integers(0, 256, (FOREIGN_ITEMS, *size, 3), dtype=np.uint8)
        result["noise photos"] = share(noise, None)
        if digits is not None:
            from PIL import Image

            fitted = [fit_photo(Image.fromarray(d), height=size[0], width=size[1]) for d in digits[:FOREIGN_ITEMS]]
            result["handwritten digits"] = share(np.stack(fitted), None)
    if model.reads_titles:
        letters = random.Random(7)
        gibberish = [
            " ".join(
                "".join(letters.choices("bcdfghjklmnpqrstvwxzaeiou", k=letters.randint(3, 10)))
                for _ in range(letters.randint(2, 6))
            )
            for _ in range(FOREIGN_ITEMS)
        ]
        result["gibberish titles"] = share(None, gibberish)
    return result


def print_quality(quality: Quality) -> None:
    """The figures as tables."""
    print(f"\n{quality['model']} {quality['version']} on {quality['rows']} rows of {quality['split']} ({quality['runtime']})")
    for pattern, figures in quality["patterns"].items():
        names = ("accuracy", "macro-F1", "ECE", "accepted at .98", "of them right")
        header = "".join(f"{name:>{width}}" for name, width in zip(names, (10, 10, 8, 17, 15), strict=True))
        print(f"\n{TITLES[pattern]:<20}{'n':>7}{header}")
        for name, entry in figures.items():
            print(
                f"  {name:<18}{entry['n']:>7}{_percent(entry['accuracy']):>10}{_decimal(entry['macro_f1']):>10}"
                f"{_percent(entry['ece']):>8}{_percent(entry['accepted_share']):>17}{_percent(entry['accepted_precision']):>15}"
            )
    print("\nabstaining: " + ", ".join(f"{name} {_percent(share)}" for name, share in quality["abstaining"].items()))
    if quality["agreement"]:
        found = quality["agreement"]
        print(
            f"agreement: AUROC {found['auroc']:.3f} against titles of another kind; conflicts shown for "
            f"{_percent(found['conflicts_matching'])} of matching and {_percent(found['conflicts_swapped'])} of swapped pairs"
        )
    first = next(iter(quality["patterns"]), None)
    if first:
        name, entry = next(iter(quality["patterns"][first].items()))
        print(f"\n{quality['split']} accuracy: {_percent(entry['accuracy'])} ({name}, {TITLES[first]})")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="a bundle's folder, such as models/fashion/2")
    add_config_flags(parser)
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="default: test")
    parser.add_argument("--runtime", default="tensorflow", choices=["tensorflow", "litert"], help="default: tensorflow")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder with the cache of decoded photos (default: runs)"
    )
    parser.add_argument("--digits", type=Path, help="an mnist.npz, to see whether handwriting is recognised as foreign")
    parser.add_argument("--pictures", type=Path, help="folder for predictions on photos of the split (default: runs/<model>)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args(argv)
    try:
        config = config_from_arguments(arguments)
        catalogue = load_catalogue(config, cache_dir=arguments.runs / "cache")
        digits = load_digits(arguments.digits) if arguments.digits else None
        model = ServedModel(arguments.bundle, runtime=arguments.runtime)
        quality = evaluate_bundle(model, catalogue, split=arguments.split, digits=digits)
    except (ConfigError, CatalogueError, BundleError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    print_quality(quality)
    pictures = arguments.pictures or arguments.runs / quality["model"]
    draw_predictions(pictures / f"predictions-{arguments.split}.png", model, catalogue, arguments.split)
    print(f"pictures in {pictures}")
    if arguments.json:
        arguments.json.write_text(json.dumps(quality, indent=1) + "\n")
    return 0


def load_digits(path: Path) -> NDArray[Any]:
    """uint8[N, 28, 28], the test digits of an `mnist.npz`."""
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays["x_test"])


if __name__ == "__main__":
    raise SystemExit(main())
