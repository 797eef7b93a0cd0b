"""A small catalogue of another kind, made of what a model was kept from: other kinds of product, photographed on busy grounds.

    python -m scripts.held_out_catalogue --preset fashion --data FOLDER --out runs/other-shop
    python -m scripts.held_out_catalogue --config shop.toml --hold-out category=Lamps,Rugs --train-photos 200 --out lamps

Writes catalogue.csv, photos/ and catalogue.toml, which `python -m scripts.train --config` takes. With it can be shown what
a start from a bundle is worth (docs/fine-tuning.md), if that bundle was trained with the same --hold-out.

Owns which rows become the catalogue and what it looks like. Its photos are those of the phone simulation that evaluation
measures by (`scripts.evaluation.phone`), not those of the training's own change (`scripts.handheld_photos`): a model that was
trained with the latter has met neither these products nor these grounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from app.engine.images import ALLOWED_FORMATS
from scripts.argument_types import whole_number_between
from scripts.config import ConfigError, PhotoSource, RunConfig, TrainingConfig, add_config_flags, config_from_arguments
from scripts.data.catalogue import Catalogue, CatalogueError, load_catalogue
from scripts.data.row_photos import encoded_extra_photos
from scripts.data.splits import group_rows
from scripts.evaluation.phone import phone_photo
from scripts.held_out import column_and_labels, held_out_rows

# Of the fashion set: of middle frequency, from all departments but the smallest, some pairs alike (flats and formal shoes).
DEFAULT_HOLD_OUT = (
    "articleType=Caps,Clutches,Deodorant,Dresses,Earrings,Flats,"
    "Formal Shoes,Innerwear Vests,Jackets,Lipstick,Scarves,Track Pants"
)
PHOTO_HEIGHT = 224
"""Pixels; the width follows from the product's own photo."""
TRAINING = TrainingConfig(
    epochs=12,
    batch_size=32,
    learning_rate=2e-3,
    weight_decay=0.05,
    label_smoothing=0.1,
    ema_decay=0.98,
)
"""The `small` preset's, with epochs for a start from a bundle. Photos need no made ground: they have one."""


@dataclass(frozen=True)
class Item:
    """A row of the new catalogue, and which row of the old one it is."""

    row: int
    split: str


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    try:
        return make(arguments, config_from_arguments(arguments))
    except (ConfigError, CatalogueError, OSError) as error:
        print(f"held_out_catalogue: {error}", file=sys.stderr)
        return 1


def make(arguments: argparse.Namespace, config: RunConfig) -> int:
    folder: Path = arguments.out
    if folder.exists() and any(folder.iterdir()):
        raise CatalogueError(f"{folder} is not empty; name another folder")
    catalogue = load_catalogue(config, cache_dir=arguments.runs / "cache", limit=arguments.limit)
    column, labels = arguments.hold_out
    items = chosen_items(
        catalogue,
        column,
        labels,
        train_photos=arguments.train_photos,
        val_photos=arguments.val_photos,
        seed=config.training.seed,
    )
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    written = []
    photos = full_photos(catalogue, [item.row for item in items], height=arguments.photo_height)
    with ThreadPoolExecutor() as pool, tqdm(total=len(items), desc="photos on other grounds", unit="photo") as bar:
        while some := list(islice(photos, 32)):
            seeds = [config.training.seed + items[place].row for place, _ in some]
            scenes = pool.map(phone_photo, [photo for _, photo in some], seeds)
            for (place, _), scene in zip(some, scenes, strict=True):
                Image.fromarray(scene).save(folder / "photos" / f"{place:05}.jpg", quality=90)
                written.append(place)
                bar.update()
    if len(written) < len(items):
        print(f"{len(items) - len(written)} products are left out: their photos cannot be read")
    _write_table(folder / "catalogue.csv", catalogue, column, [(place, items[place]) for place in sorted(written)])
    name = f"{config.name[:55]}-held-out"
    (folder / "catalogue.toml").write_text(training_config(name, catalogue.config), encoding="utf-8")
    print("\n".join(_counts(catalogue.labels[column], [items[place] for place in written])))
    print(f"{folder} written; train on it with: python -m scripts.train --config {folder / 'catalogue.toml'}")
    return 0


def chosen_items(
    catalogue: Catalogue, column: str, labels: Sequence[str], *, train_photos: int, val_photos: int, seed: int
) -> list[Item]:
    """Every held-out product that was not for training tests; of those that were, some train and some validate, none of one
    title on both sides. In the order of the old catalogue.

    Raises:
        CatalogueError: there are too few photos, or a label has none to train or test on.
    """
    held_out = held_out_rows(catalogue, {column: labels}) & catalogue.photo_present
    items = [Item(int(row), "test") for row in np.flatnonzero(held_out & (catalogue.split != "train"))]
    pool = np.flatnonzero(held_out & (catalogue.split == "train"))
    if len(pool) < train_photos + val_photos:
        raise CatalogueError(
            f"{len(pool):,} training rows with a photo have these labels: too few for {train_photos:,} photos to train and "
            f"{val_photos:,} to validate on; name more labels, or lower --train-photos"
        )
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, group in zip(pool, group_rows([catalogue.titles[row] for row in pool], [""] * len(pool)), strict=True):
        rows_of[group].append(int(row))
    wanted = {"train": train_photos, "val": val_photos}
    groups = sorted(rows_of)
    for place in np.random.default_rng(seed).permutation(len(groups)):
        alike = rows_of[groups[place]]
        split = next((name for name, count in wanted.items() if count >= len(alike)), None)
        if split is not None:
            wanted[split] -= len(alike)
            items += [Item(row, split) for row in alike]
    items.sort(key=lambda item: item.row)
    kinds = {(str(catalogue.labels[column][item.row]), item.split) for item in items}
    for label in labels:
        for use in ("train", "test"):
            if (label, use) not in kinds:
                raise CatalogueError(f"no photo of {label!r} is left to {use} on; leave this label out or take more photos")
    return items


def full_photos(catalogue: Catalogue, rows: Sequence[int], *, height: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(place in `rows`, uint8[height, W, 3]) of every row's photo in the most detail there is: an extra one, or its own.

    Raises:
        CatalogueError: the catalogue is not a table, or a source of photos is missing.
    """
    if not catalogue.photo_cells:
        raise CatalogueError("only a table's photos can be taken over: this catalogue has no names for them")
    named = catalogue.config.catalogue
    own = named.photos or ((PhotoSource(named.path.parent),) if named.path else ())
    left = list(range(len(rows)))
    for sources in (named.extra_photos, own):
        places = left
        found = encoded_extra_photos([catalogue.photo_cells[rows[place]] for place in places], sources) if sources else ()
        done = set()
        for index, data, aspect_ratio in found:
            photo = _decoded(data, aspect_ratio, height)
            if photo is not None:
                done.add(places[index])
                yield places[index], photo
        left = [place for place in places if place not in done]


def training_config(name: str, config: RunConfig) -> str:
    """catalogue.toml: the network of `config`, so that a run from nothing and one from its bundle differ in the start alone."""
    catalogue: dict[str, Any] = {"path": "catalogue.csv", "image_column": "photo", "label_columns": ["kind"]}
    if config.catalogue.text_column:
        catalogue["text_column"] = "title"
    tables = {"catalogue": catalogue | {"split_column": "split"}, "network": asdict(config.network)}
    # The seed is the command's business.
    tables["training"] = {key: value for key, value in asdict(TRAINING).items() if key != "seed"}
    lines = [f"name = {json.dumps(name)}"]
    for table, values in tables.items():
        # JSON's strings, numbers, lists and truth values are TOML's too.
        lines += ["", f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _decoded(data: bytes, aspect_ratio: float | None, height: int) -> NDArray[np.uint8] | None:
    """The photo at this height, a squash to a square undone; None when it cannot be read."""
    try:
        with Image.open(BytesIO(data), formats=ALLOWED_FORMATS) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    width = max(8, round(height * (aspect_ratio or image.width / image.height)))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _write_table(path: Path, catalogue: Catalogue, column: str, items: Sequence[tuple[int, Item]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "photo", "title", "kind", "split"])
        for place, item in items:
            title, kind = catalogue.titles[item.row], catalogue.labels[column][item.row]
            writer.writerow([catalogue.row_ids[item.row], f"photos/{place:05}.jpg", title, kind, item.split])


def _counts(labels: NDArray[np.object_], items: Sequence[Item]) -> Iterator[str]:
    counts = Counter((str(labels[item.row]), item.split) for item in items)
    splits = ("train", "val", "test")
    kinds = sorted({kind for kind, _ in counts})
    width = max(5, *map(len, kinds))
    yield " ".join([f"{'kind':{width}}", *(f"{split:>6}" for split in splits)])
    for kind in kinds:
        yield " ".join([f"{kind:{width}}", *(f"{counts[kind, split]:6,}" for split in splits)])
    yield " ".join([f"{'total':{width}}", *(f"{sum(counts[kind, split] for kind in kinds):6,}" for split in splits)])


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.held_out_catalogue", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_flags(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write; new or empty")
    parser.add_argument(
        "--hold-out",
        type=column_and_labels,
        default=DEFAULT_HOLD_OUT,
        metavar="COLUMN=LABEL,...",
        help=f"the kinds to take, as `scripts.train` holds them out (default, for the fashion set: {DEFAULT_HOLD_OUT})",
    )
    count = whole_number_between(1, 1_000_000)
    parser.add_argument("--train-photos", type=count, default=600, metavar="COUNT", help="products to train on (default: 600)")
    parser.add_argument("--val-photos", type=count, default=150, metavar="COUNT", help="products to validate on (default: 150)")
    parser.add_argument(
        "--photo-height",
        type=whole_number_between(32, 1024),
        default=PHOTO_HEIGHT,
        metavar="PIXELS",
        help=f"of the written photos (default: {PHOTO_HEIGHT})",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder with the cache of photos (default: runs)")
    parser.add_argument("--limit", type=int, help="read only so many rows, evenly spaced, for a quick try")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
