"""The fit: epochs, averaged weights, validation, checkpoints, logs, and what follows the epochs.

Owns the loop round Keras' own `fit`, one epoch at a time so that photos may grow from epoch to epoch. Refuses to know
sources and bundles.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from app.engine.text import TitleTokenizer
from scripts.arithmetic import bfloat16_products
from scripts.batches import Rows, TrainingBatches, steps_per_epoch
from scripts.checkpoints import restore_checkpoint, save_checkpoint, stored_state
from scripts.config import NetworkConfig, TrainingConfig
from scripts.epochs_ahead import EpochsAhead
from scripts.familiar_photos import learn_familiarity
from scripts.finishing import finish
from scripts.labels import LabelSpace
from scripts.losses import Recogniser
from scripts.normalisation import settle_normalisation
from scripts.optimizer import AveragingAdamW, WarmupCosine
from scripts.photo_heads import read_photos_alone
from scripts.predictions import validation_accuracy
from scripts.rounds import Round, meet_half_way, rounds
from scripts.served_model import ServedModel
from scripts.teaching import taught_answers
from scripts.title_heads import read_titles_alone

TAUGHT, FIRST_ROUND = "taught.npy", "first_round.npz"
"""In the run's folder, what a second round begins with: the teachers' answers and the weights it starts from."""
EPOCHS_DONE = "epochs_done.npz"
"""In the run's folder: the weights after all epochs. What follows may be done later, on another machine."""
KEEPING_SHARE = 0.1
"""Of the time, at most, for validation and checkpoints. An accelerator does an epoch in a second; to look at each and keep it
would take longer than that."""


def fit(
    model: Recogniser,
    rows: Rows,
    train_rows: NDArray[np.int64],
    val_rows: NDArray[np.int64],
    *,
    tokenizer: TitleTokenizer | None,
    space: LabelSpace,
    network: NetworkConfig,
    training: TrainingConfig,
    run_dir: Path,
    resume: bool,
    teachers: Sequence[ServedModel] = (),
    ahead: EpochsAhead | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place through all rounds of epochs, its weights ending as the average; returns the history, an entry per
    epoch. What follows the epochs is `finish_fitting`.

    `teachers` are bundles asked beside the run's own network for what the second round learns (`training.taught_epochs`);
    `ahead` prepares the epochs, with the same rows. With `resume` a run that was killed goes on after the last epoch that it
    kept.
    """
    checkpoint, whole = run_dir / "checkpoint.npz", run_dir / EPOCHS_DONE
    history: list[dict[str, float]] = []
    if resume and whole.exists() and len(stored_state(whole)["history"]) >= training.all_epochs:
        history = restore_checkpoint(whole, model, [])["history"]
        print(f"resuming after all {len(history)} epochs", flush=True)
        return history
    if resume and checkpoint.exists():
        history = stored_state(checkpoint)["history"]
        print(f"resuming after epoch {len(history)} of {training.all_epochs}", flush=True)
    ahead = ahead or EpochsAhead(rows, train_rows)
    with_photo = train_rows[rows.photo_present[train_rows]]
    sized, size, taught = rows, rows.photos.shape[1:3], None
    kept_at, keeping_took, looks = time.monotonic(), math.inf, 0
    with _scalars(run_dir / "tensorboard") as write_scalar:
        for this in rounds(network, training, has_image=bool(network.image_height and len(with_photo))):
            if len(history) > this.stop:
                continue
            optimizer = _optimizer(model, this, steps_per_epoch(len(train_rows), training.batch_size), training)
            if len(history) > this.start:
                restore_checkpoint(checkpoint, model, [optimizer])
            if this.is_taught:
                if len(history) == this.start:
                    np.save(
                        run_dir / TAUGHT, taught_answers(model.network, rows.photos, with_photo, space=space, teachers=teachers)
                    )
                    np.savez(run_dir / FIRST_ROUND, *(np.asarray(v) for v in model.trainable_variables))
                taught = _kept(run_dir / TAUGHT)
            for start, stop in this.stretches(len(history)):
                if network.image_height and size != this.sizes[start - this.start]:
                    size = this.sizes[start - this.start]
                    sized = rows.resized(*size)
                options = [_options(epoch, tokenizer, space, training) for epoch in range(start, stop)]
                epochs = ahead.epochs(options, rows=sized, taught=taught if this.is_taught else None)
                for epoch, batches in enumerate(epochs, start):
                    model.mix.active.assign(float(this.is_mixed))
                    entry = _one_epoch(model, batches, epoch, training)
                    is_due = keeping_took == math.inf or time.monotonic() - kept_at >= keeping_took / KEEPING_SHARE
                    is_kept = is_due or epoch == this.stop - 1
                    kept_at = time.monotonic() if is_kept else kept_at
                    if is_kept and len(val_rows):
                        with optimizer.averaged(model.trainable_variables):
                            settle_normalisation(model, rows.photos, with_photo, seed=training.seed, at_most=1024)
                            entry |= validation_accuracy(model, rows, val_rows, tokenizer=tokenizer, space=space)
                    history.append(entry)
                    for name, value in entry.items():
                        write_scalar(name, value, epoch)
                    if is_kept:
                        save_checkpoint(checkpoint, model, [optimizer], {"history": history})
                        looks += 1
                        if looks > 1:  # the first may have compiled, for a minute: no measure of the others
                            keeping_took = min(keeping_took, time.monotonic() - kept_at)
                        kept_at = time.monotonic()
                    _print_epoch(epoch, training, size, entry, space)
            optimizer.use_averages(model.trainable_variables)
            if this.is_taught:
                meet_half_way(model.trainable_variables, _kept(run_dir / FIRST_ROUND))
            settle_normalisation(model, rows.photos, with_photo, seed=training.seed)
    save_checkpoint(whole, model, [], {"history": history})
    return history


def finish_fitting(
    model: Recogniser,
    rows: Rows,
    train_rows: NDArray[np.int64],
    val_rows: NDArray[np.int64],
    history: list[dict[str, float]],
    *,
    tokenizer: TitleTokenizer | None,
    space: LabelSpace,
    network: NetworkConfig,
    training: TrainingConfig,
    teachers: Sequence[ServedModel] = (),
    taught: NDArray[np.float16] | None = None,
) -> None:
    """What follows the epochs: the finishing passes, the photo's own heads and the title's, and which photos are familiar, in
    place. The last entry of `history` gets the accuracies of the end. `taught` are what photo teachers said of each training
    photo (`scripts.photo_teachers`)."""
    if taught is None and not training.epochs and teachers:
        with_photo = train_rows[rows.photo_present[train_rows]]
        taught = taught_answers(model.network, rows.photos, with_photo, space=space, teachers=teachers)
    is_changed = bool(network.photo_heads_width or network.title_heads_width)
    if model.has_image and model.has_text and tokenizer and training.finishing_passes:
        finish(
            model,
            rows,
            train_rows,
            tokenizer=tokenizer,
            label_names=space.published_labels,
            network=network,
            training=training,
            taught=taught,
        )
        is_changed = True
    read_photos_alone(model, rows, train_rows, training=training, taught=taught)
    read_titles_alone(model, rows, train_rows, val_rows, tokenizer=tokenizer, training=training)
    learn_familiarity(model, rows, train_rows, training=training)
    if is_changed and len(val_rows) and history:
        history[-1] |= validation_accuracy(model, rows, val_rows, tokenizer=tokenizer, space=space)


def _one_epoch(model: Recogniser, batches: TrainingBatches, epoch: int, training: TrainingConfig) -> dict[str, float]:
    """Losses and seconds."""
    started = time.monotonic()
    with warnings.catch_warnings(), bfloat16_products(training.bfloat16):
        # A network with one branch has variables that its loss does not reach; that is meant.
        warnings.filterwarnings("ignore", message="Gradients do not exist")
        logs = model.fit(batches, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=_verbose()).history
    return {name: float(values[-1]) for name, values in logs.items()} | {"seconds": time.monotonic() - started}


def _options(epoch: int, tokenizer: TitleTokenizer | None, space: LabelSpace, training: TrainingConfig) -> Mapping[str, Any]:
    """Of an epoch's `TrainingBatches`."""
    return {
        "tokenizer": tokenizer,
        "label_names": space.published_labels,
        "batch_size": training.batch_size,
        "seed": training.seed,
        "epoch": epoch,
        "strokes_are_outliers": training.strokes_are_outliers,
        "title_changes": training.title_changes,
        "handheld_photo_share": training.handheld_photo_share,
    }


def _verbose() -> Any:
    """A progress bar for people; for a log the line that each epoch gets anyway is enough."""
    return "auto" if sys.stdout.isatty() else 0


def _print_epoch(
    epoch: int, training: TrainingConfig, size: tuple[int, ...], entry: Mapping[str, float], space: LabelSpace
) -> None:
    first = f"val_{space.heads[0].levels[-1]}_"  # the rest is in history.json and TensorBoard
    shown = (f"{name} {value:.4g}" for name, value in entry.items() if not name.startswith("val_") or name.startswith(first))
    print(f"epoch {epoch + 1}/{training.all_epochs}  {size[0]}x{size[1]}  {'  '.join(shown)}", flush=True)


def _optimizer(model: Recogniser, this: Round, steps: int, training: TrainingConfig) -> AveragingAdamW:
    """For a round: the model's own, begun anew, where it has one, since a step is compiled for its optimizer and an accelerator
    is through twenty epochs in that time."""
    total = steps * (this.stop - this.start)
    schedule = WarmupCosine(this.learning_rate, int(total * training.warmup_fraction), total)
    options = {"weight_decay": training.weight_decay, "clipnorm": 5.0, "ema_momentum": training.ema_decay}
    kept = getattr(model, "optimizer", None)
    if isinstance(kept, AveragingAdamW) and all(getattr(kept, name) == value for name, value in options.items()):
        kept.restart(schedule)
        return kept
    optimizer = AveragingAdamW(schedule, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "missing", "scale", "offset"])
    model.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    optimizer.build(model.trainable_variables)
    return optimizer


def _kept(path: Path) -> Any:
    """What the second round began with: an array, or the list of an archive's. The network has changed since."""
    if not path.exists():
        raise ValueError(f"{path} is gone, so the second round cannot go on; start again without --resume")
    stored = np.load(path, allow_pickle=False)
    return [stored[name] for name in stored.files] if path.suffix == ".npz" else stored


@contextmanager
def _scalars(folder: Path) -> Iterator[Any]:
    """A writer of TensorBoard scalars that needs no TensorFlow; without tensorboard, of nothing."""
    try:
        from tensorboard.summary import Writer
    except ImportError:
        yield lambda name, value, step: None
        return
    writer = Writer(str(folder))
    try:
        yield writer.add_scalar
    finally:
        writer.close()
