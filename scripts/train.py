"""From a catalogue to a bundle, top to bottom: read, lay out, fit, calibrate, export, evaluate.

Run `python -m scripts.train --help` for the presets with their commands, times and expected scores.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

# oneDNN's convolutions train a third faster on CPUs where TensorFlow leaves them off. Must be set before its import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from app.engine.errors import BundleError
from app.engine.text import TitleTokenizer
from scripts.batches import Rows, group_titles
from scripts.calibrate import calibrate
from scripts.config import ConfigError, RunConfig, add_config_flags, config_from_arguments
from scripts.data.catalogue import Catalogue, CatalogueError, load_catalogue
from scripts.data.report import write_bad_rows
from scripts.drawn_products import draw_digits, draw_products
from scripts.evaluate import print_quality
from scripts.export import (
    ExportError,
    check_exportable,
    manifest_of,
    new_bundle,
    next_version,
    space_id,
    write_descriptions,
    write_golden,
    write_json,
    write_network,
)
from scripts.fitting import fit
from scripts.held_out import column_and_labels, held_out_labels, held_out_rows
from scripts.labels import LabelSpace, applicability, build_label_space
from scripts.losses import Recogniser
from scripts.network import build_network
from scripts.pictures import draw_run
from scripts.sealed_figures import seal_with_figures
from scripts.served_model import ServedModel
from scripts.starting_point import read_starting_point


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        config = config_from_arguments(arguments)
        return train(config, arguments)
    except (ConfigError, CatalogueError, ExportError, BundleError, OSError, ValueError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train: stopped; add --resume to go on after the last whole epoch", file=sys.stderr)
        return 130


def train(config: RunConfig, arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    run_dir: Path = arguments.runs / (arguments.run or config.name)
    run_dir.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(config.training.seed)

    if not config.training.epochs and (config.training.taught_epochs or not arguments.start):
        raise ConfigError("a run of no epochs needs --from, a bundle to go on with, and --taught-epochs 0")

    # ---- read -------------------------------------------------------------------------------------------------------
    start = read_starting_point(arguments.start) if arguments.start else None
    if start:
        # A branch that the catalogue has nothing for is left out below. The photo's own heads may be added to a bundle's.
        width = max(start.network.photo_heads_width, config.network.photo_heads_width)
        config = replace(config, network=replace(start.network, photo_heads_width=width))
    catalogue = load_catalogue(config, cache_dir=arguments.runs / "cache", limit=arguments.limit)
    write_bad_rows(catalogue.report, run_dir / "bad_rows.csv")
    print("\n".join(catalogue.report.lines()), flush=True)
    config = without(catalogue.config, arguments.without)
    if not (catalogue.split == arguments.report_split).any():
        raise CatalogueError(
            f"the catalogue has no row in split {arguments.report_split!r} to report figures on; choose another --report-split"
        )

    # ---- lay out: labels, title pieces, network -------------------------------------------------------------------------
    held_out = held_out_rows(catalogue, arguments.hold_out)
    train_rows = np.flatnonzero((catalogue.split == "train") & ~held_out)
    val_rows = np.flatnonzero(catalogue.split == "val")
    space = build_label_space(
        catalogue.labels,
        train_rows,
        label_columns=config.catalogue.label_columns,
        auxiliary_columns=config.catalogue.auxiliary_columns,
        hierarchy=config.catalogue.hierarchy,
    )
    if space.contradicting_rows:
        print(f"{space.contradicting_rows} training rows contradict the usual parent of their label; the label is believed")
    rows = rows_of(catalogue, space, has_image=config.network.image_height > 0)
    tokenizer = start.tokenizer if start and config.network.max_tokens else None
    if config.network.max_tokens and tokenizer is None:
        tokenizer = TitleTokenizer.train(
            (catalogue.titles[row] for row in train_rows),
            vocabulary_size=config.network.vocabulary_size,
            max_tokens=config.network.max_tokens,
        )
    network = build_network(
        config.network, vocabulary_size=tokenizer.vocabulary_size if tokenizer else 1, logits_width=space.logits_width
    )
    if start:
        taken = start.pour_into(network, space)
        print(f"starting from {arguments.start}; {taken} of {space.published_width} labels are known to it", flush=True)
    model = Recogniser(network, space, config.network, config.training)
    print(
        f"{network.count_params() / 1e6:.2f} M parameters, {len(train_rows)} training rows, {len(val_rows)} validation",
        flush=True,
    )

    teachers = [ServedModel(folder, runtime="litert") for folder in arguments.teacher]
    if teachers and config.training.epochs and not config.training.taught_epochs:
        raise ConfigError("--teacher needs a second round to teach in: set training.taught_epochs in a config")
    applies = applicability(space, rows.labels, train_rows)
    check_exportable(config, arguments.version or 1, space, space.to_json(applies))

    # ---- fit --------------------------------------------------------------------------------------------------------
    fitting_since = time.monotonic()
    history = fit(
        model,
        rows,
        train_rows,
        val_rows,
        tokenizer=tokenizer,
        space=space,
        network=config.network,
        training=config.training,
        run_dir=run_dir,
        resume=arguments.resume,
        teachers=teachers,
    )
    (run_dir / "history.json").write_text(json.dumps(history, indent=1))

    # ---- calibrate, export, evaluate what will be served: the bundle, not the network in memory -------------------------
    calibration = calibrate(model, rows, val_rows, tokenizer=tokenizer, space=space, applies=applies, seed=config.training.seed)
    version = arguments.version or next_version(arguments.models / config.name)
    destination = arguments.models / config.name / str(version)
    manifest = manifest_of(
        config,
        version,
        space,
        space_id(config.name, network, tokenizer),
        training={
            "command": command(arguments),
            "seed": config.training.seed,
            "epochs": len(history),
            "train_rows": len(train_rows),
            "val_rows": len(val_rows),
            "backend": keras.backend.backend(),
            "seconds": round(max(sum(entry["seconds"] for entry in history), time.monotonic() - fitting_since)),
            "parameters": network.count_params(),
            "network": asdict(config.network),  # for `--from`
        },
        held_out={"splits": ["val (calibration only)", "test"]} | held_out_labels(arguments.hold_out),
    )
    drawn = draw_digits() if config.training.image_augmentation == "digits" else draw_products()
    with new_bundle(destination, replace_existing=arguments.version is not None) as folder:
        write_network(folder, network, config=config.network, published_width=space.published_width)
        write_descriptions(folder, labels=space.to_json(applies), calibration=calibration, tokenizer=tokenizer)
        write_golden(folder, drawn, config=config.network, tokenizer=tokenizer)
        served, quality = seal_with_figures(folder, manifest, config=config, catalogue=catalogue, split=arguments.report_split)
    write_json(run_dir / "metrics.json", quality)
    print_quality(quality)
    draw_run(run_dir, served, catalogue, history, split=arguments.report_split)
    print(f"{destination} written, pictures and logs in {run_dir}, {time.monotonic() - started:.0f} s")
    return 0


def command(arguments: argparse.Namespace) -> str:
    """The command that repeats this run, for a card that others read: where the data lay on this machine is left out."""
    words = [word for word in (arguments.command_line or sys.argv[1:]) if word != "--resume"]
    for place, word in enumerate(words):
        if word == "--data" and place + 1 < len(words):
            words[place + 1] = "FOLDER"
        elif word.startswith("--data="):
            words[place] = "--data=FOLDER"
    return shlex.join(["python", "-m", "scripts.train", *words])


def rows_of(catalogue: Catalogue, space: LabelSpace, *, has_image: bool) -> Rows:
    """The catalogue as the network reads it."""
    return Rows(
        photos=catalogue.photos,
        photo_present=catalogue.photo_present & has_image,
        extra_photos=catalogue.extra_photos,
        extra_of_row={int(row): i for i, row in enumerate(catalogue.extra_rows)},
        titles=catalogue.titles,
        labels=space.encode(catalogue.labels, len(catalogue.titles)),
        title_group=group_titles(catalogue.titles),
    )


def without(config: RunConfig, branch: str | None) -> RunConfig:
    """The same run with a branch removed: what does each contribute?"""
    if branch == "image":
        return replace(config, network=replace(config.network, image_height=0, image_width=0))
    if branch == "text":
        return replace(config, network=replace(config.network, max_tokens=0))
    return config


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_flags(parser)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of logs, checkpoints and caches (default: runs)"
    )
    parser.add_argument("--run", help="name of the run's folder (default: the model's name)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where the bundle goes (default: models)")
    parser.add_argument("--version", type=int, help="version to write, replacing it if it is there (default: the next free)")
    parser.add_argument("--resume", action="store_true", help="go on after the last whole epoch of a run that was stopped")
    parser.add_argument(
        "--teacher",
        type=Path,
        action="append",
        default=[],
        metavar="BUNDLE",
        help="a bundle whose answers are learned from in the second round (training.taught_epochs); may be repeated",
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="BUNDLE",
        help="start from this bundle's weights, such as models/fashion/2: a small catalogue of another kind learns faster so",
    )
    parser.add_argument(
        "--hold-out",
        type=column_and_labels,
        action="append",
        default=[],
        metavar="COLUMN=LABEL,...",
        help='keep rows with these labels from training, such as "brandName=Nike,Fila"; `evaluate` then says what new brands '
        "cost; may be repeated",
    )
    parser.add_argument("--limit", type=int, help="read only so many rows, for a quick try")
    parser.add_argument("--without", choices=["image", "text"], help="train with a branch removed, to see what it is worth")
    parser.add_argument(
        "--report-split", default="test", choices=["test", "val"], help="split of the printed figures (default: test)"
    )
    arguments = parser.parse_args(argv)
    arguments.command_line = argv
    arguments.hold_out = dict(arguments.hold_out)
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
