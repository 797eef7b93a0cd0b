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
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

# oneDNN's convolutions train a third faster on CPUs where TensorFlow leaves them off. Must be set before its import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from app.engine.errors import BundleError
from app.engine.settings import usable_cpus
from app.engine.text import TitleTokenizer
from scripts.argument_types import whole_number_between
from scripts.arithmetic import convolution_dtype
from scripts.batches import Rows, group_titles
from scripts.calibrate import calibrate
from scripts.config import ConfigError, NetworkConfig, RunConfig, add_config_flags, config_from_arguments
from scripts.data.catalogue import Catalogue, CatalogueError, load_catalogue
from scripts.data.report import write_bad_rows
from scripts.drawn_products import draw_digits, draw_products
from scripts.epochs_ahead import EpochsAhead
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
from scripts.fitting import EPOCHS_DONE, finish_fitting, fit
from scripts.held_out import column_and_labels, held_out_labels, held_out_rows
from scripts.labels import LabelSpace, applicability, build_label_space
from scripts.losses import Recogniser
from scripts.network import build_network
from scripts.photo_teachers import TEACHERS_ANSWERS, answers_of, photo_teachers
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
        # A branch that the catalogue has nothing for is left out below. Heads of the photo's or the title's own may be added.
        widths = {
            name: max(getattr(start.network, name), getattr(config.network, name))
            for name in ("photo_heads_width", "title_heads_width")
        }
        config = replace(config, network=replace(start.network, **widths))
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
    tokenizer = None
    if config.network.max_tokens:
        titles = (catalogue.titles[row] for row in train_rows)
        tokenizer = (start.tokenizer if start else None) or tokenizer_of(titles, config.network, run_dir, arguments.resume)
    ahead = EpochsAhead(rows, train_rows, arguments.processes)  # before the first network: it forks
    network = build_network(
        config.network,
        vocabulary_size=tokenizer.vocabulary_size if tokenizer else 1,
        logits_width=space.logits_width,
        convolution_dtype=convolution_dtype(config.training.bfloat16),
    )
    if start:
        taken = start.pour_into(network, space)
        print(f"starting from {arguments.start}; {taken} of {space.published_width} labels are known to it", flush=True)
    print(
        f"{network.count_params() / 1e6:.2f} M parameters, {len(train_rows)} training rows, {len(val_rows)} validation",
        flush=True,
    )

    bundles = [ServedModel(folder, runtime="litert") for folder in arguments.teacher]
    if bundles and config.training.epochs and not config.training.taught_epochs:
        raise ConfigError("--teacher needs a second round to teach in: set training.taught_epochs in a config")
    applies = applicability(space, rows.labels, train_rows)
    check_exportable(config, arguments.version or 1, space, space.to_json(applies))

    # ---- fit --------------------------------------------------------------------------------------------------------
    fitting_since = time.monotonic()
    with ahead:
        teachers = []
        are_epochs_done = not config.training.all_epochs or (arguments.resume and (run_dir / EPOCHS_DONE).exists())
        if config.network.image_height and not are_epochs_done:
            teachers = photo_teachers(
                rows,
                train_rows,
                val_rows,
                config=config.teachers,
                space=space,
                network=config.network,
                training=config.training,
                run_dir=run_dir,
                resume=arguments.resume,
                ahead=ahead,
            )
        model = Recogniser(
            network, space, config.network, config.training, teachers=teachers, taught_share=config.teachers.taught_share
        )
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
            teachers=bundles,
            ahead=ahead,
        )
        taught = answers_of(teachers, rows, train_rows, space, run_dir / TEACHERS_ANSWERS, resume=arguments.resume)
    (run_dir / "history.json").write_text(json.dumps(history, indent=1))
    if arguments.stop_after_epochs:
        print(f"the epochs are done: {run_dir / EPOCHS_DONE}; go on with --resume, where TensorFlow is installed")
        return 0
    finish_fitting(
        model,
        rows,
        train_rows,
        val_rows,
        history,
        tokenizer=tokenizer,
        space=space,
        network=config.network,
        training=config.training,
        teachers=bundles,
        taught=taught,
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
    given = arguments.command_line or sys.argv[1:]
    words = [word for word in given if word not in ("--resume", "--stop-after-epochs")]
    for place, word in enumerate(words):
        if word == "--data" and place + 1 < len(words):
            words[place + 1] = "FOLDER"
        elif word.startswith("--data="):
            words[place] = "--data=FOLDER"
    return shlex.join(["python", "-m", "scripts.train", *words])


def tokenizer_of(titles: Iterable[str], network: NetworkConfig, run_dir: Path, resume: bool) -> TitleTokenizer:
    """The title pieces, kept in the run's folder: a run that goes on elsewhere must not hang on the library's version."""
    kept = run_dir / "tokenizer.json"
    if resume and kept.exists():
        return TitleTokenizer.from_json(kept.read_text(encoding="utf-8"), network.max_tokens)
    tokenizer = TitleTokenizer.train(titles, vocabulary_size=network.vocabulary_size, max_tokens=network.max_tokens)
    kept.write_text(tokenizer.to_json(), encoding="utf-8")
    return tokenizer


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
        "--stop-after-epochs",
        action="store_true",
        help="do the epochs alone, for a machine with an accelerator and without TensorFlow (KERAS_BACKEND=jax); --resume, "
        "with the run's folder, does the rest elsewhere",
    )
    parser.add_argument(
        "--processes",
        type=whole_number_between(0, 256),
        # Without an accelerator an epoch takes longer than its preparation, which the training's own thread does beside it.
        default=usable_cpus() - 1 if keras.backend.backend() == "jax" else 0,
        help="processes that prepare epochs ahead (default: with KERAS_BACKEND=jax one per core but one, else none)",
    )
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
