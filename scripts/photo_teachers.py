"""Larger networks that read photos alone, for a network to learn from.

Owns training them, one after the other, each from its own seed. They see no title, are never served and need not fit a
processor; what they know of a photo reaches the network by its own loss (`scripts.losses`). Refuses to know that loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from scripts.arithmetic import convolution_dtype
from scripts.batches import Rows
from scripts.config import NetworkConfig, TeachersConfig, TrainingConfig
from scripts.epochs_ahead import EpochsAhead
from scripts.fitting import fit
from scripts.labels import LabelSpace
from scripts.losses import Recogniser
from scripts.network import build_network, photo_reader
from scripts.predictions import accuracies, predict
from scripts.teaching import probabilities

TEACHERS_ANSWERS = "teachers_answers.npz"
"""In the run's folder, for what is trained after the epochs."""


def photo_teachers(
    rows: Rows,
    train_rows: NDArray[np.int64],
    val_rows: NDArray[np.int64],
    *,
    config: TeachersConfig,
    space: LabelSpace,
    network: NetworkConfig,
    training: TrainingConfig,
    run_dir: Path,
    resume: bool,
    ahead: EpochsAhead,
) -> list[keras.Model]:
    """`config.count` models of photos to logits (`scripts.network.photo_reader`). Each has a folder in the run's for its
    checkpoints and logs; with `resume`, those that are there are not trained again."""
    larger = replace(
        network,
        stem=config.stem,
        widths=config.widths,
        depths=config.depths,
        dropout=config.dropout,
        max_tokens=0,
        photo_heads_width=0,
        title_heads_width=0,
    )
    seen = val_rows[rows.photo_present[val_rows]]
    readers, answers = [], np.zeros((len(seen), space.published_width), np.float32)
    place: Recogniser | None = None

    def untrained(own: TrainingConfig) -> Recogniser:
        dtype = convolution_dtype(own.bfloat16)
        built = build_network(larger, vocabulary_size=1, logits_width=space.logits_width, convolution_dtype=dtype)
        return Recogniser(built, space, larger, own)

    for number in range(1, config.count + 1):
        own = replace(
            training,
            epochs=config.epochs,
            taught_epochs=0,
            unmixed_epochs=config.unmixed_epochs,
            batch_size=config.batch_size,
            mixed_photo_share=config.mixed_photo_share,
            handheld_photo_share=config.handheld_photo_share,
            contrastive_weight=0.0,
            seed=training.seed + 1_000 * number,
        )
        folder = run_dir / f"teacher{number}"
        folder.mkdir(exist_ok=True)
        keras.utils.set_random_seed(own.seed)
        teacher = untrained(own)
        print(f"teacher {number} of {config.count}: {teacher.network.count_params() / 1e6:.1f} M parameters", flush=True)
        # All are trained in the place of one: a step is compiled for its model, and takes as long to trace as twenty epochs.
        place = place or untrained(own)
        _copy(teacher, place)
        fit(
            place,
            rows,
            train_rows,
            val_rows,
            tokenizer=None,
            space=space,
            network=larger,
            training=own,
            run_dir=folder,
            resume=resume,
            ahead=ahead,
        )
        _copy(place, teacher)
        readers.append(photo_reader(teacher.network))
        if len(seen):
            logits = predict(place, rows, seen, tokenizer=None)["image_logits"]
            answers += probabilities(logits[:, : space.published_width], space)
            shown = (f"{name} {100 * value:.2f}" for name, value in accuracies(answers, rows.labels[seen], space).items())
            print(f"teachers so far: {', '.join(shown)}", flush=True)
    keras.utils.set_random_seed(training.seed)
    return readers


def _copy(source: Recogniser, target: Recogniser) -> None:
    for variable, value in zip(target.kept_variables, source.kept_variables, strict=True):
        variable.assign(np.asarray(value))


def answers_of(
    readers: Sequence[keras.Model],
    rows: Rows,
    train_rows: NDArray[np.int64],
    space: LabelSpace,
    kept: Path,
    *,
    resume: bool,
    batch_size: int = 512,
) -> NDArray[np.float16] | None:
    """float16[N, `space.published_width`]: for the training photos among the N rows the mean probabilities over the teachers
    and over each photo as it is and mirrored, for what is trained after the epochs; zero in all other rows. They are written to
    `kept`; without teachers, and with `resume`, they are read from there. None where there are none."""
    chosen = train_rows[rows.photo_present[train_rows]]
    taught = np.zeros((len(rows.titles), space.published_width), np.float16)
    if not readers:
        if not (resume and kept.exists()):
            return None
        with np.load(kept) as stored:
            taught[chosen] = stored["taught"]
        return taught
    for start in tqdm(range(0, len(chosen), batch_size), desc="asking the teachers", unit="batch"):
        asked = chosen[start : start + batch_size]
        photos = np.zeros((batch_size, *rows.photos.shape[1:]), np.float32)  # of one size, as JAX compiles for each anew
        photos[: len(asked)] = rows.photos[asked]
        total = np.zeros((batch_size, space.published_width), np.float32)
        for reader in readers:
            for view in (photos, photos[:, :, ::-1]):
                given = {"image": np.ascontiguousarray(view), "image_present": np.ones(batch_size, np.bool_)}
                logits = np.asarray(reader.predict_on_batch(given), np.float32)[:, : space.published_width]
                total += probabilities(logits, space)
        taught[asked] = (total / (2 * len(readers)))[: len(asked)]
    np.savez_compressed(kept, taught=taught[chosen])
    return taught
