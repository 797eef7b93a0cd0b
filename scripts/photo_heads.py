"""The last stage: heads of their own for the photo alone, which read every block of the photo branch.

The shared heads read what photo and title have in common. What a photo shows besides (colour, season, cut) is plainer in the
means of earlier blocks' channels than in the joined vector, and mixed photos, from which the branch learns kinds, blur it. Owns
the objective of these heads, which speak where there is no title; all else is held, embeddings included. Refuses to know how
the branch was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from tqdm import tqdm

from scripts.batches import Rows
from scripts.config import TrainingConfig
from scripts.finishing import batch_size_for, compile_to_fade, taken_otherwise
from scripts.losses import Recogniser
from scripts.network import PHOTO_HEADS, blank_titles, without_photo_branch

PASSES = 24
"""Each over one view of every photo, in turn."""
BATCH_SIZE, LEARNING_RATE = 512, 2e-3
VIEWS = ("plain", "mirrored", "changed", "changed anew")
"""None is mixed with another photo: these heads are told what exactly this one shows. Changed ones keep them steady on photos
that are taken otherwise."""


def read_photos_alone(
    model: Recogniser,
    rows: Rows,
    train_rows: NDArray[np.int64],
    *,
    training: TrainingConfig,
    taught: NDArray[np.float16] | None = None,
) -> None:
    """Train the photo's own heads of `model.network`, in place, half by the labels and half by what teachers said of each photo
    where that is known: `taught` float16[N, published width]. Does nothing for a network without them, or without photos."""
    with_photo = train_rows[rows.photo_present[train_rows]]
    if PHOTO_HEADS not in {layer.name for layer in model.network.layers} or not len(with_photo):
        return
    heads = keras.Model(model.network.get_layer("image_pools").output, model.network.get_layer(PHOTO_HEADS).output)
    views = [_view(model, rows, with_photo, training, number) for number in range(len(VIEWS))]
    # Measured once: moving averages would need hundreds of steps, which a small catalogue does not have.
    norm = model.network.get_layer(f"{PHOTO_HEADS}_norm")
    norm.moving_mean.assign(np.mean([view["pools"].mean(axis=0) for view in views], axis=0))
    norm.moving_variance.assign(np.mean([view["pools"].var(axis=0) for view in views], axis=0))
    learning = [layer for layer in heads.layers if layer is not norm]
    for layer in learning:
        layer.trainable = True
    targets: dict[str, NDArray[Any]] = {"labels": rows.labels[with_photo]}
    if taught is not None:
        targets["taught"] = taught[with_photo]
    batches = [_Batches(view, targets, seed=training.seed) for view in views]
    steps = len(batches[0]) * PASSES
    reader = _PhotoReader(heads, model)
    compile_to_fade(reader, steps, LEARNING_RATE, training)
    for number in range(PASSES):
        print(f"the photo alone, pass {number + 1} of {PASSES}", flush=True)
        reader.fit(batches[number % len(VIEWS)], epochs=1, shuffle=False, verbose="auto")
    for layer in learning:
        layer.trainable = False


class _PhotoReader(keras.Model):  # type: ignore[misc]
    """`heads` on top of what the shared heads say (`known`, float32[B, L])."""

    def __init__(self, heads: keras.Model, recogniser: Recogniser) -> None:
        super().__init__(name="photo_reader")
        self.heads = heads
        self._label_loss = recogniser.label_loss

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> Any:
        return inputs["known"] + self.heads(inputs["pools"], training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        # Labels as they are: smoothed ones leave the surest answers too modest for one temperature to mend.
        return self._label_loss(y_pred, y["labels"], ops.ones_like(y_pred[:, 0]), y.get("taught"), smoothing=0.0)


class _Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """One view in another order each time."""

    def __init__(self, view: Mapping[str, NDArray[np.float32]], targets: Mapping[str, NDArray[Any]], *, seed: int) -> None:
        super().__init__()
        self._view, self._targets, self._count = view, targets, len(targets["labels"])
        self._random = np.random.default_rng([seed, 50_000])
        self._size = batch_size_for(self._count, BATCH_SIZE)
        self.on_epoch_begin()

    def on_epoch_begin(self) -> None:
        self._order = self._random.permutation(self._count)

    def __len__(self) -> int:
        return self._count // self._size

    def __getitem__(self, batch: int) -> tuple[dict[str, Any], Any]:
        chosen = self._order[batch * self._size : (batch + 1) * self._size]
        x = {name: values[chosen] for name, values in self._view.items()}
        return x, {name: values[chosen] for name, values in self._targets.items()}


def _view(
    model: Recogniser, rows: Rows, with_photo: NDArray[np.int64], training: TrainingConfig, number: int, batch_size: int = 256
) -> dict[str, NDArray[np.float32]]:
    """Of every photo: the means of all blocks' channels float32[N, C], and what the shared heads say float32[N, L]."""
    network = model.network
    branch = keras.Model(
        network.get_layer("normalise").input,
        {"pools": network.get_layer("image_pools").output, "image": network.get_layer("image_dense").output},
    )
    shared = without_photo_branch(network)
    random = np.random.default_rng([training.seed, 60_000 + number])
    pools, known = [], []
    title = f"{VIEWS[number]} photos, view {number + 1} of {len(VIEWS)}"
    for start in tqdm(range(0, len(with_photo), batch_size), desc=title, unit="batch"):
        chosen = with_photo[start : start + batch_size]
        photos = np.array(rows.photos[chosen])
        if VIEWS[number] == "mirrored":
            photos = photos[:, :, ::-1]
        elif VIEWS[number] != "plain":
            for slot, row in enumerate(chosen):
                photos[slot] = taken_otherwise(rows, int(row), random, detailed=bool(number % 2), training=training)
            photos = model.augment(ops.convert_to_tensor(photos.astype(np.float32)))
        read = branch.predict_on_batch(ops.cast(photos, "float32"))
        pools.append(np.asarray(read["pools"], np.float32))
        inputs = blank_titles(network, len(chosen)) | {"image": read["image"]}
        known.append(np.asarray(shared.predict_on_batch(inputs)["image_logits"], np.float32))
    return {"pools": np.concatenate(pools), "known": np.concatenate(known)}
