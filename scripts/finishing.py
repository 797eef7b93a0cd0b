"""The last passes: the photo branch is held, what reads titles and joins the two is trained on.

Owns the third objective. The photo branch's results are computed once per view (a random change of every photo) and kept,
so a pass costs what one over titles costs, and fusion and heads get several passes in the time of one epoch with photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from app.engine.text import TitleTokenizer
from scripts.batches import OUTLIER_SHARE, FeatureBatches, Rows, steps_per_epoch
from scripts.config import NetworkConfig, TrainingConfig
from scripts.handheld_photos import handheld_photo
from scripts.image_augmentation import PhotoMixing
from scripts.labels import LabelSpace
from scripts.losses import Recogniser
from scripts.network import without_photo_branch
from scripts.outliers import outlier_photo

BATCH_SIZE = 128
"""At most. Epochs on an accelerator have larger batches; a pass over kept results is short of steps, not of time."""
LEAST_STEPS = 8
"""In a pass of the stages that follow, too."""
VIEWS = 4
"""Different changes of every photo. With one, the heads would learn the training photos' own results by heart."""
FEATURE_DROPOUT = 0.4
"""The photo branch is surer of the photos that it was trained on than of new ones. Where it speaks less clearly, the fusion
learns to listen to the title too."""
MIXED_SHARE = 0.6
"""How many photos of a view are mixed with another item's. On its own training photos the branch is right nearly always, on
new ones five times in six: a fusion that only ever met the former would believe a wrong photo over a right title."""
TITLE_CHANGES = 0.5
"""The end of training sees titles closer to those that will be served."""

SWAPPED_TITLE_SHARE = 0.12
"""Other products' titles, three times as many as in the epochs: which to believe when photo and title name different kinds is
the fusion's question, and it is settled here. The photo is."""

SIBLING_SHARE = 0.15
"""Of the photos of a pass, how many are another product's whose article differs and whose family does not (`sibling_photos`).
On its own training photos the branch is never sure of a wrong article; on new ones it is, nearly always of one in the same
family, and there the title knows better. Where photo and title name different families, the photo does."""


def finish(
    model: Recogniser,
    rows: Rows,
    train_rows: NDArray[Any],
    *,
    tokenizer: TitleTokenizer,
    label_names: list[str],
    network: NetworkConfig,
    training: TrainingConfig,
    taught: NDArray[np.float16] | None = None,
) -> None:
    """Train everything behind the photo branch for `training.finishing_passes` passes, in place. `taught` are the teachers'
    answers (`scripts.teaching`), where there are any."""
    features_only = replace(training, image_augmentation="none", mixed_photo_share=0.0)
    rest = Recogniser(without_photo_branch(model.network), model.space, network, features_only)
    rest.log_scale.assign(model.log_scale)
    rest.offset.assign(model.offset)
    batch_size = min(training.batch_size, BATCH_SIZE)
    steps = steps_per_epoch(len(train_rows), batch_size) * training.finishing_passes
    not_decayed = ("bias", "missing", "scale", "offset")
    compile_to_fade(rest, steps, training.learning_rate / 2, training, not_decayed=not_decayed)
    views = [_view(model, rows, train_rows, training, number) for number in range(VIEWS)]
    for number in range(training.finishing_passes):
        features, familiar, own_share = views[number % VIEWS]
        random = np.random.default_rng([training.seed, 70_000 + number])
        features, own_share = sibling_photos(features, familiar, own_share, train_rows, rows.labels, model.space, random)
        batches = FeatureBatches(
            rows,
            train_rows,
            features=features,
            familiar=familiar,
            own_share=own_share,
            feature_dropout=FEATURE_DROPOUT,
            tokenizer=tokenizer,
            label_names=label_names,
            batch_size=batch_size,
            seed=training.seed,
            epoch=20_000 + number,  # far from the numbers of the epochs
            strokes_are_outliers=False,
            title_changes=TITLE_CHANGES,
            swapped_title_share=SWAPPED_TITLE_SHARE,
            taught=taught,
        )
        print(f"finishing, pass {number + 1} of {training.finishing_passes}", flush=True)
        rest.fit(batches, epochs=1, shuffle=False, verbose="auto")


def batch_size_for(count: int, at_most: int) -> int:
    """Of a pass over `count` rows after the epochs: a small catalogue has smaller batches."""
    return min(at_most, -(-count // LEAST_STEPS))


def compile_to_fade(
    model: keras.Model,
    steps: int,
    learning_rate: float,
    training: TrainingConfig,
    *,
    not_decayed: Sequence[str] = ("bias",),
    **options: Any,
) -> None:
    """For a stage after the epochs: AdamW whose rate rises in a twentieth of the steps and falls to 0. `not_decayed`: parts of
    variables' names; `options` are `keras.Model.compile`'s."""
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=learning_rate, warmup_steps=max(1, steps // 20)),
        weight_decay=training.weight_decay,
        clipnorm=5.0,
    )
    optimizer.exclude_from_weight_decay(var_names=list(not_decayed))
    model.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax", **options)


def taken_otherwise(
    rows: Rows, row: int, rng: np.random.Generator, *, detailed: bool, training: TrainingConfig
) -> NDArray[np.uint8]:
    """uint8[H, W, 3]: a row's photo, the one in more detail if that is asked for and there, now and then on a made ground."""
    extra = rows.extra_of_row.get(row)
    photo: NDArray[np.uint8] = rows.photos[row] if extra is None or not detailed else rows.extra_photos[extra]
    return handheld_photo(rng, photo) if rng.random() < training.handheld_photo_share else photo


def sibling_photos(
    features: NDArray[np.float32],
    familiar: NDArray[np.bool_],
    own_share: NDArray[np.float32],
    train_rows: NDArray[Any],
    labels: NDArray[np.int32],
    space: LabelSpace,
    random: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`features` float32[N, F] and `own_share` float32[N] as they are, but for `SIBLING_SHARE` of `train_rows` at most: their
    photo is that of a random row of their family, if that is of another kind, and nothing of it is their own. Families and
    kinds are the two finest levels of the hierarchy, by `labels` int32[N, C]; without one nothing is changed."""
    hierarchy = next((head.levels for head in space.heads if len(head.levels) > 1), None)
    if hierarchy is None:
        return features, own_share
    family, kind = (labels[:, space.columns.index(level)] for level in hierarchy[-2:])
    donors = train_rows[familiar[train_rows] & (kind[train_rows] >= 0) & (own_share[train_rows] >= 1.0)]
    donors = donors[np.argsort(family[donors], kind="stable")]
    chosen = train_rows[(random.random(len(train_rows)) < SIBLING_SHARE) & (kind[train_rows] >= 0)]
    first, last = (np.searchsorted(family[donors], family[chosen], side=side) for side in ("left", "right"))
    place = first + (random.random(len(chosen)) * (last - first)).astype(np.int64)
    has_donor = last > first
    chosen, donor = chosen[has_donor], donors[place[has_donor]]
    differs = kind[chosen] != kind[donor]
    chosen, donor = chosen[differs], donor[differs]
    features, own_share = features.copy(), own_share.copy()
    features[chosen] = features[donor]  # a copy, so a donor that was chosen too gives its own
    own_share[chosen] = 0.0
    return features, own_share


def _view(
    model: Recogniser, rows: Rows, train_rows: NDArray[Any], training: TrainingConfig, number: int, batch_size: int = 256
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """What the photo branch makes of every training photo, changed at random, some mixed, some replaced by made outliers: the
    features float32[N, F], where a real photo is behind them bool[N], how much of it is the row's own float32[N]."""
    branch = keras.Model(model.network.get_layer("normalise").input, model.network.get_layer("image_dense").output)
    rng = np.random.default_rng([training.seed, 30_000 + number])
    height, width = rows.photos.shape[1:3]
    features = np.zeros((len(rows.titles), branch.output.shape[-1]), np.float32)
    familiar = np.ones(len(rows.titles), bool)
    own_share = np.ones(len(rows.titles), np.float32)
    mix = PhotoMixing(MIXED_SHARE, seed=training.seed + number)
    familiar[train_rows[rng.random(len(train_rows)) < OUTLIER_SHARE]] = False
    for start in tqdm(range(0, len(train_rows), batch_size), desc=f"photos, view {number + 1} of {VIEWS}", unit="batch"):
        chosen = train_rows[start : start + batch_size]
        photos = np.array(rows.photos[chosen])
        for slot, row in enumerate(chosen):
            photos[slot] = taken_otherwise(rows, int(row), rng, detailed=bool(number % 2), training=training)
            if not familiar[row]:
                photos[slot] = outlier_photo(rng, height, width, photos[slot], strokes=training.strokes_are_outliers)
        changed = model.augment(keras.ops.convert_to_tensor(photos.astype(np.float32)))
        mixed, share = mix(changed, keras.ops.convert_to_tensor(rows.photo_present[chosen] & familiar[chosen]))
        own_share[chosen] = np.asarray(share)
        features[chosen] = branch.predict_on_batch(mixed)
    return features, familiar, own_share
