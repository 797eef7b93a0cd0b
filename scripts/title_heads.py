"""The title's own heads: a second reader of titles, which is told what they say and nothing of photos.

The shared heads believe photos that they know by heart, and so learn to pass over what titles say of colours. A reader of
another kind that never saw a photo errs elsewhere: its answers are added to theirs wherever there is a title, each head's as
much as validation finds likely. Owns the objective of these heads and that share; all else is held, embeddings included.
Refuses to know how the rest was trained.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from app.engine.text import TitleTokenizer
from scripts.batches import Rows
from scripts.config import TrainingConfig
from scripts.finishing import TITLE_CHANGES, batch_size_for, compile_to_fade
from scripts.labels import Head, LabelSpace
from scripts.losses import Recogniser
from scripts.network import shared_logits
from scripts.predictions import predict
from scripts.title_augmentation import TitleAugmentation, class_stems
from scripts.title_branch import TITLE_HEADS

PASSES = 20
BATCH_SIZE, LEARNING_RATE = 128, 2e-3
MOST_ADDED = {"hierarchy": 0.15, "flat": 0.35}
"""Of what these heads say, added to what the shared ones do. More is likelier still, but what a title says of kinds must not
outweigh a photo of something else, and where words are hidden or wrong, more costs more than it brings."""
_SHARES = np.linspace(0.0, 1.0, 8)
"""Of that."""
_TEMPERATURES = np.geomspace(0.5, 4.0, 25)
"""Every share is judged at its own best one, since calibration follows."""
_LEAST_ROWS = 200
"""With a label; fewer would be fitted by chance."""


def read_titles_alone(
    model: Recogniser,
    rows: Rows,
    train_rows: NDArray[np.int64],
    val_rows: NDArray[np.int64],
    *,
    tokenizer: TitleTokenizer | None,
    training: TrainingConfig,
) -> None:
    """Train the title's own heads of `model.network`, in place, by the labels, which are smoothed as in the epochs so that both
    readers speak equally loud. Does nothing for a network without them, or without titles."""
    network = model.network
    if tokenizer is None or TITLE_HEADS not in {layer.name for layer in network.layers}:
        return
    tokens = tokenizer.encode_many(rows.titles[row] for row in train_rows)
    has_title = (tokens != 0).any(axis=1)
    if not has_title.any():
        return
    titles, labels = [rows.titles[row] for row in train_rows[has_title]], rows.labels[train_rows[has_title]]
    token_ids = next(tensor for tensor in network.inputs if tensor.name == "token_ids")
    heads = keras.Model(token_ids, network.get_layer(TITLE_HEADS).output)
    for layer in heads.layers:
        layer.trainable = layer.name.startswith(TITLE_HEADS)
    size = batch_size_for(len(titles), BATCH_SIZE)
    steps = -(-len(titles) // size) * PASSES
    stems = class_stems(model.space.published_labels)
    reader = _TitleReader(heads, model)
    compile_to_fade(reader, steps, LEARNING_RATE, training)
    for number in range(PASSES):
        print(f"the title alone, pass {number + 1} of {PASSES}", flush=True)
        # A reader that never missed a word is sure of nothing where one is missing, and adds that doubt to the whole answer.
        change = TitleAugmentation(stems, (), training.seed + 80_000 + number, TITLE_CHANGES)
        tokens = tokenizer.encode_many((change(title) for title in titles), dropout=0.05)
        reader.fit(tokens, labels, batch_size=size, epochs=1, shuffle=True, verbose="auto")
    for layer in heads.layers:
        layer.trainable = False
    shares = _shares_on(model, heads, rows, val_rows, tokenizer)
    layer = network.get_layer(TITLE_HEADS)
    layer.kernel.assign(np.asarray(layer.kernel) * shares)
    layer.bias.assign(np.asarray(layer.bias) * shares)


class _TitleReader(keras.Model):  # type: ignore[misc]
    def __init__(self, heads: keras.Model, recogniser: Recogniser) -> None:
        super().__init__(name="title_reader")
        self.heads = heads
        self._label_loss = recogniser.label_loss

    def call(self, tokens: Any, training: bool = False) -> Any:
        return self.heads(tokens, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return self._label_loss(y_pred, y, ops.ones_like(y_pred[:, 0]))


def _shares_on(
    model: Recogniser, heads: keras.Model, rows: Rows, val_rows: NDArray[np.int64], tokenizer: TitleTokenizer
) -> NDArray[np.float32]:
    """float32[L]: how much of each of their logits is added, by the likelihood of the labels of `val_rows`."""
    space = model.space
    shares = np.zeros(space.logits_width, np.float32)
    for head in space.heads:
        shares[head.offset : head.offset + head.size] = most_added(head)
    tokens = tokenizer.encode_many(rows.titles[row] for row in val_rows)
    has_title = (tokens != 0).any(axis=1)
    with_title = val_rows[has_title]
    if not len(with_title):
        return shares
    known = predict(keras.Model(model.network.inputs, shared_logits(model.network)), rows, with_title, tokenizer=tokenizer)
    own = np.asarray(heads.predict(tokens[has_title], verbose=0), np.float32)
    found = []
    for head, truth in _truths(space, rows.labels[with_title]):
        part, has_label = slice(head.offset, head.offset + head.size), truth >= 0
        if has_label.sum() >= _LEAST_ROWS:
            shares[part] = likeliest_share(
                known["fused_logits"][has_label, part], own[has_label, part], truth[has_label], most=most_added(head)
            )
        found.append(f"{head.levels[-1]} {shares[head.offset]:.2f}")
    print(f"of what the title's own heads say is added: {', '.join(found)}", flush=True)
    return shares


def most_added(head: Head) -> float:
    return MOST_ADDED["hierarchy" if len(head.levels) > 1 else "flat"]


def likeliest_share(known: NDArray[np.float32], own: NDArray[np.float32], truth: NDArray[np.int64], *, most: float) -> float:
    """The share of `own` float32[N, K], up to `most`, that, added to `known` float32[N, K], makes the labels int64[N]
    likeliest."""

    def loss(share: float, temperature: float) -> float:
        logits = (known + share * own) / temperature
        logits -= logits.max(axis=1, keepdims=True)
        return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(truth)), truth]).mean())

    shares = most * _SHARES
    losses = [min(loss(share, temperature) for temperature in _TEMPERATURES) for share in shares]
    return float(shares[int(np.argmin(losses))])


def _truths(space: LabelSpace, labels: NDArray[np.int32]) -> list[tuple[Head, NDArray[np.int64]]]:
    """Of every published head the index of each row's path int64[N], -1 where its finest level is not known."""
    found = []
    for head in space.heads:
        if not head.auxiliary:
            finest = labels[:, space.columns.index(head.levels[-1])]
            path_of = np.argsort(head.level_index(len(head.levels) - 1))
            found.append((head, np.where(finest >= 0, path_of[np.maximum(finest, 0)], -1)))
    return found
