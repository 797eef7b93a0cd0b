"""A made shop: photos whose colour decides one attribute, titles whose words decide another; and tiny runs on it."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

# As scripts.train sets them, before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

COLOURS = {"red": (200, 30, 40), "yellow": (230, 200, 40), "blue": (40, 60, 200), "green": (30, 150, 60)}
TONES = {"red": "warm", "yellow": "warm", "blue": "cold", "green": "cold"}
# A title never names its label: training hides label words now and then.
MATERIALS = {"wool": "merino", "steel": "inox", "glass": "crystal"}
NOUNS = ("bowl", "cup", "plate", "lamp", "box")

CONFIG = """
name = "{name}"

[catalogue]
path = "items.csv"
split_column = "split"
{columns}

[network]
image_height = 16
image_width = 16
widths = [8, 16]
depths = [1, 1]
max_tokens = 3
vocabulary_size = 300
token_width = 16
recurrent_width = 16
fused_width = 24
embedding_width = 16
dimensions = [4, 8, 16]
dropout = 0.0

[training]
epochs = {epochs}
batch_size = {batch_size}
learning_rate = 0.01
contrastive_weight = 0.02
label_smoothing = 0.0
ema_decay = 0.7
warmup_fraction = 0.1
finishing_passes = 0
image_augmentation = "products"
progressive_resizing = false
"""
PHOTO, TITLE = 'image_column = "photo"', 'text_column = "title"'
ALL_LABELS = 'label_columns = ["tone", "colour", "material"]\nhierarchy = ["tone", "colour"]'

EPOCHS, BATCH_SIZE = 18, 16


def config_text(*, name: str, columns: Sequence[str], epochs: int, batch_size: int = BATCH_SIZE) -> str:
    return CONFIG.format(name=name, columns="\n".join(columns), epochs=epochs, batch_size=batch_size)


@dataclass(frozen=True)
class MadeRun:
    """A finished run of `scripts.train`: its exit status, its folders, and the bundle's."""

    status: int
    runs: Path
    models: Path
    name: str

    @property
    def run_dir(self) -> Path:
        return self.runs / self.name

    @property
    def bundle(self) -> Path:
        return self.models / self.name / "1"


def write_shop(folder: Path, *, train: int, val: int, test: int) -> Path:
    """`items.csv` and `photos/`. The colour and the material of a row are independent."""
    rng = np.random.default_rng(20)
    (folder / "photos").mkdir(parents=True)
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "photo", "title", "tone", "colour", "material", "split"])
        for row, split in enumerate(["train"] * train + ["val"] * val + ["test"] * test):
            colour, material = rng.choice(list(COLOURS)), rng.choice(list(MATERIALS))
            noun = NOUNS[rng.integers(len(NOUNS))]
            name = f"{row}.png"
            draw_item(rng, COLOURS[colour]).save(folder / "photos" / name)
            title = f"{MATERIALS[material]} {noun}"
            known = str(material) if row % 10 else ""
            writer.writerow([row, f"photos/{name}", title, TONES[colour], colour, known, split])
    return folder


def draw_item(rng: np.random.Generator, colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (16, 16), (255, 255, 255))
    left, top = (int(v) for v in rng.integers(0, 4, 2))
    shape = ImageDraw.Draw(image).ellipse if rng.random() < 0.5 else ImageDraw.Draw(image).rectangle
    shape((left, top, left + 11, top + 11), fill=colour)
    return image


def run_training(
    shop: Path,
    work: Path,
    *,
    epochs: int,
    batch_size: int = BATCH_SIZE,
    name: str = "shop",
    columns: Sequence[str] = (PHOTO, TITLE, ALL_LABELS),
    network: str = "",
    flags: Sequence[str] = (),
) -> MadeRun:
    """`network`: more lines of that section of the config. An epoch of one batch is enough to see that a run goes through."""
    from scripts.train import main

    config = shop / f"{name}.toml"
    text = config_text(name=name, columns=columns, epochs=epochs, batch_size=batch_size)
    config.write_text(text.replace("[training]", f"{network}\n\n[training]"))
    run = MadeRun(0, work / "runs", work / "models", name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.familiar_photos.PASSES", 2)
        status = main(["--config", str(config), "--runs", str(run.runs), "--models", str(run.models), *flags])
    return MadeRun(status, run.runs, run.models, name)


@contextmanager
def steps_untraced() -> Iterator[None]:
    """Inside the block TensorFlow's functions run as they are written: tracing takes longer than a few tiny steps."""
    import tensorflow as tf

    were_untraced = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(were_untraced)


@contextmanager
def graphs_as_traced() -> Iterator[None]:
    """Inside the block TensorFlow runs its graphs as they were traced: to optimise one takes longer than some hundred steps of
    a network this small."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@contextmanager
def fitting_within(block: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Inside, `scripts.train` fits networks within `block`. What it exports and measures is as ever."""
    import scripts.photo_teachers
    import scripts.train
    from scripts.fitting import fit

    def fit_within(*arguments: Any, **options: Any) -> Any:
        with block():
            return fit(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts.train, "fit", fit_within)
        patch.setattr(scripts.photo_teachers, "fit", fit_within)
        yield


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"), train=160, val=60, test=60)


@pytest.fixture(scope="session")
def trained(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """The one whole run that most tests look at. Read only."""
    with fitting_within(graphs_as_traced):
        return run_training(shop, tmp_path_factory.mktemp("trained"), epochs=EPOCHS)
