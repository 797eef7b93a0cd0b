"""The fit: epochs, learning rate, averaged weights, validation, checkpoints, logs.

Owns the loop round Keras' own `fit`, one epoch at a time so that photos may grow from epoch to epoch. Refuses to know
sources and bundles.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
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
from scripts.finishing import finish
from scripts.labels import LabelSpace
from scripts.losses import Recogniser
from scripts.normalisation import settle_normalisation
from scripts.photo_heads import read_photos_alone
from scripts.rounds import Round, meet_half_way, rounds
from scripts.served_model import ServedModel
from scripts.teaching import taught_answers

TAUGHT, FIRST_ROUND = "taught.npy", "first_round.npz"
"""In the run's folder, what a second round begins with: the teachers' answers and the weights it starts from."""


@keras.saving.register_keras_serializable("itemlens")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up, then half a cosine down to nothing (Loshchilov and Hutter 2016, arXiv:1608.03983)."""

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        rising = step / max(1, self.warmup_steps)
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        falling = 0.5 * (1.0 + keras.ops.cos(math.pi * keras.ops.clip(done, 0.0, 1.0)))
        return self.peak * keras.ops.where(step < self.warmup_steps, rising, falling)

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


class AveragingAdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW that keeps an average of the weights beside them (Polyak and Juditsky 1992).

    Keras would overwrite the weights with the average whenever `fit` returns; here that is asked for by name, because
    `fit` returns after every epoch.
    """

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        pass

    @contextmanager
    def averaged(self, variables: Sequence[Any]) -> Iterator[None]:
        """The averages stand in for the weights inside the block."""
        kept = [np.asarray(v) for v in variables]
        self.use_averages(variables)
        try:
            yield
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)

    def use_averages(self, variables: Sequence[Any]) -> None:
        for variable, average in zip(variables, self._model_variables_moving_average, strict=True):
            variable.assign(average)


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
) -> list[dict[str, float]]:
    """Train `model` in place, its weights ending as the average; returns the history, an entry per epoch.

    `teachers` are bundles asked beside the run's own network for what the second round learns (`training.taught_epochs`).
    With `resume` a run that was killed goes on after its last whole epoch.
    """
    checkpoint = run_dir / "checkpoint.npz"
    history: list[dict[str, float]] = []
    if resume and checkpoint.exists():
        history = stored_state(checkpoint)["history"]
        print(f"resuming after epoch {len(history)} of {training.all_epochs}", flush=True)
    names = [label for head in space.heads if not head.auxiliary for path in head.paths for label in path]
    with_photo = train_rows[rows.photo_present[train_rows]]
    sized, size, taught = rows, rows.photos.shape[1:3], None
    with _scalars(run_dir / "tensorboard") as write_scalar:
        for this in rounds(network, training, has_image=bool(network.image_height and len(with_photo))):
            if len(history) > this.stop:
                continue
            model.mix.share = training.mixed_photo_share if this.is_mixed else 0.0  # before it is compiled
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
            for epoch in range(len(history), this.stop):
                if network.image_height and size != this.sizes[epoch - this.start]:
                    size = this.sizes[epoch - this.start]
                    sized = rows.resized(*size)
                batches = TrainingBatches(
                    sized,
                    train_rows,
                    tokenizer=tokenizer,
                    label_names=names,
                    batch_size=training.batch_size,
                    seed=training.seed,
                    epoch=epoch,
                    strokes_are_outliers=training.strokes_are_outliers,
                    title_changes=training.title_changes,
                    handheld_photo_share=training.handheld_photo_share,
                    taught=taught if this.is_taught else None,
                )
                started = time.monotonic()
                with warnings.catch_warnings():
                    # A network with one branch has variables that its loss does not reach; that is meant.
                    warnings.filterwarnings("ignore", message="Gradients do not exist")
                    with bfloat16_products(training.bfloat16):
                        logs = model.fit(batches, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose="auto").history
                entry = {name: float(values[-1]) for name, values in logs.items()}
                entry["seconds"] = time.monotonic() - started
                if len(val_rows):
                    with optimizer.averaged(model.trainable_variables):
                        settle_normalisation(model, rows.photos, with_photo, seed=training.seed, at_most=1024)
                        entry |= validation_accuracy(model, rows, val_rows, tokenizer=tokenizer, space=space)
                history.append(entry)
                for name, value in entry.items():
                    write_scalar(name, value, epoch)
                save_checkpoint(checkpoint, model, [optimizer], {"history": history})
                first = f"val_{space.heads[0].levels[-1]}_"  # the rest is in history.json and TensorBoard
                shown = "  ".join(
                    f"{name} {value:.4g}"
                    for name, value in entry.items()
                    if not name.startswith("val_") or name.startswith(first)
                )
                print(f"epoch {epoch + 1}/{training.all_epochs}  {size[0]}x{size[1]}  {shown}", flush=True)
            optimizer.use_averages(model.trainable_variables)
            if this.is_taught:
                meet_half_way(model.trainable_variables, _kept(run_dir / FIRST_ROUND))
            settle_normalisation(model, rows.photos, with_photo, seed=training.seed)
    if not training.epochs and teachers:
        taught = taught_answers(model.network, rows.photos, with_photo, space=space, teachers=teachers)
    is_changed = bool(network.photo_heads_width)
    if model.has_image and model.has_text and tokenizer and training.finishing_passes:
        finish(
            model, rows, train_rows, tokenizer=tokenizer, label_names=names, network=network, training=training, taught=taught
        )
        is_changed = True
    read_photos_alone(model, rows, train_rows, training=training)
    if is_changed and len(val_rows) and history:
        history[-1] |= validation_accuracy(model, rows, val_rows, tokenizer=tokenizer, space=space)
    return history


def _optimizer(model: Recogniser, this: Round, steps: int, training: TrainingConfig) -> AveragingAdamW:
    total = steps * (this.stop - this.start)
    optimizer = AveragingAdamW(
        WarmupCosine(this.learning_rate, int(total * training.warmup_fraction), total),
        weight_decay=training.weight_decay,
        clipnorm=5.0,
        use_ema=True,
        ema_momentum=training.ema_decay,
    )
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


def predict(
    model: keras.Model,
    rows: Rows,
    chosen: NDArray[np.int64],
    *,
    tokenizer: TitleTokenizer | None,
    photos: NDArray[np.uint8] | None = None,
    titles: Sequence[str] | None = None,
    batch_size: int = 256,
) -> dict[str, NDArray[np.float32]]:
    """All outputs of the network for the chosen rows, unaugmented; `photos` and `titles` replace the rows' own."""
    texts = [rows.titles[row] for row in chosen] if titles is None else list(titles)
    tokens = tokenizer.encode_many(texts) if tokenizer else np.zeros((len(texts), 1), np.int32)
    x = {
        "image": rows.photos[chosen] if photos is None else photos,
        "token_ids": tokens,
        "image_present": rows.photo_present[chosen],
        "text_present": (tokens != 0).any(axis=1),
    }
    outputs = model.predict(x, batch_size=batch_size, verbose=0)
    return {name: np.asarray(value, np.float32) for name, value in outputs.items()}


def validation_accuracy(
    model: Recogniser,
    rows: Rows,
    val_rows: NDArray[np.int64],
    *,
    tokenizer: TitleTokenizer | None,
    space: LabelSpace,
) -> dict[str, float]:
    """Accuracy per head and pattern on the validation rows, from the raw logits: `val_articleType_image` and so on."""
    outputs = predict(model, rows, val_rows, tokenizer=tokenizer)
    result = {}
    column = 0
    for head in space.heads:
        finest = len(head.levels) - 1
        truth = rows.labels[val_rows, column + finest]
        known = truth >= 0
        for pattern in ("fused", "image", "text"):
            branch_off = (pattern == "image" and not model.has_image) or (pattern == "text" and not model.has_text)
            if branch_off or not known.any() or head.auxiliary:
                continue
            scores = outputs[f"{pattern}_logits"][:, head.offset : head.offset + head.size]
            guess = head.level_index(finest)[scores.argmax(axis=1)]
            result[f"val_{head.levels[finest]}_{pattern}"] = float((guess == truth)[known].mean())
        column += len(head.levels)
    return result


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
