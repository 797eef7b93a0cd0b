"""The last stage for photos: telling those of products from all others.

In the epochs this is a small part of a loss of many, learnt from outliers that fill the frame, and what lies on some ground
like a product passes for one. Here it is learnt alone, from the branch's result as it ends, with strange things on plain and
made grounds beside the other outliers. Owns the photos it is learnt from and the objective; all else is held, answers and
embeddings included. Refuses to know how the branch was trained, and sets no limit (`scripts.calibrate`).

Source: outlier exposure, Hendrycks et al. 2018, arXiv:1812.04606.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray
from tqdm import tqdm

from scripts.batches import Rows
from scripts.config import TrainingConfig
from scripts.finishing import batch_size_for, compile_to_fade
from scripts.handheld_photos import handheld_photo
from scripts.losses import Recogniser
from scripts.outliers import outlier_photo, strange_thing

PHOTOS = 12_000
"""At most, of products as they are; of the other kinds a share of these. More than one core looks at in half a minute."""
HANDHELD_SHARE, OUTLIER_SHARE, THING_SHARE = 0.3, 0.35, 0.3
"""Photos on made grounds, outliers that fill the frame, and strange things, for every photo as it is."""
PASSES, BATCH_SIZE, LEARNING_RATE = 20, 256, 1e-3
DROPOUT = 0.5
"""Of the branch's result, which this small network would otherwise know by heart."""


def learn_familiarity(model: Recogniser, rows: Rows, train_rows: NDArray[np.int64], *, training: TrainingConfig) -> None:
    """Train the `image_in_domain` output of `model.network` anew, in place, from its own weights on. Does nothing for a network
    without photos."""
    with_photo = train_rows[rows.photo_present[train_rows]]
    if not model.has_image or not len(with_photo):
        return
    rng = np.random.default_rng([training.seed, 90_000])
    chosen = rng.permutation(with_photo)[:PHOTOS]
    features, familiar = _examples(model, rows, chosen, rng, training)
    given = keras.Input((features.shape[1],))
    x = layers.Dropout(DROPOUT, seed=training.seed)(given)
    for name in ("image_domain_hidden", "image_domain"):
        x = model.network.get_layer(name)(x)
    reader = keras.Model(given, x, name="familiar_photos")
    size = batch_size_for(len(features), BATCH_SIZE)
    steps = -(-len(features) // size) * PASSES
    compile_to_fade(reader, steps, LEARNING_RATE, training, loss=keras.losses.BinaryCrossentropy(from_logits=True))
    # What shows no product counts for as much as what does.
    kinds = np.unique(familiar, return_inverse=True)[1]
    weights = (len(familiar) / np.bincount(kinds))[kinds]
    order = rng.permutation(len(features))
    print(f"which photos are of products, from {len(features):,}", flush=True)
    reader.fit(features[order], familiar[order, None], sample_weight=weights[order], batch_size=size, epochs=PASSES, verbose=0)


def _examples(
    model: Recogniser, rows: Rows, chosen: NDArray[np.int64], rng: np.random.Generator, training: TrainingConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the branch makes of photos, float32[N, F], and which of them show a product, float32[N]."""
    size = rows.photos.shape[1:3]
    branch = keras.Model(model.network.get_layer("normalise").input, model.network.get_layer("image_dense").output)

    strokes = training.strokes_are_outliers
    kinds: list[tuple[float, float, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = [
        (HANDHELD_SHARE if training.handheld_photo_share else 0.0, 1.0, partial(handheld_photo, rng)),
        (OUTLIER_SHARE, 0.0, partial(outlier_photo, rng, *size, strokes=strokes)),
        # A thing of one colour on a plain ground may be a digit, which a model of handwriting must not learn to refuse.
        (THING_SHARE if strokes else 0.0, 0.0, partial(strange_thing, rng, *size)),
    ]
    made, familiar = list(rows.photos[chosen]), [1.0] * len(chosen)
    for share, is_product, change in kinds:
        photos = rows.photos[chosen[: round(share * len(chosen))]]
        made += [change(photo) for photo in photos]
        familiar += [is_product] * len(photos)
    return _features(model, branch, made), np.array(familiar, np.float32)


def _features(
    model: Recogniser, branch: keras.Model, photos: list[NDArray[np.uint8]], batch_size: int = 256
) -> NDArray[np.float32]:
    """float32[N, F], of photos moved and lit as in training. Of one size of batch, as JAX compiles for each anew."""
    found = []
    for start in tqdm(range(0, len(photos), batch_size), desc="photos of products and others", unit="batch"):
        batch = np.zeros((min(batch_size, len(photos)), *photos[0].shape), np.float32)
        part = photos[start : start + batch_size]
        batch[: len(part)] = part
        read = branch.predict_on_batch(model.augment(ops.convert_to_tensor(batch)))
        found.append(np.asarray(read, np.float32)[: len(part)])
    return np.concatenate(found)
