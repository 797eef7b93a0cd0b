"""What reads the title: word pieces through an RNN to one vector, and beside it heads of the title's own.

Owns the architecture of both, written with `keras.ops` so that it trains on any Keras backend. Refuses to know photos, losses
and files. Shapes: B items, T tokens, C channels, F fused width, L logits over all heads.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from scripts.config import NetworkConfig

TITLE_HEADS = "title_heads"
WINDOWS = (1, 2, 3)
"""Pieces that a filter of the title's own heads sees at once."""
_LOUDNESS = 0.5
"""Keras starts embeddings at +-0.05, which the GRU takes for silence: with +-0.5 three epochs of titles alone name 87 % of the
colours instead of 72 %."""


@keras.saving.register_keras_serializable("itemlens")
class BidirectionalGRU(layers.Layer):  # type: ignore[misc]
    """A GRU (Cho et al. 2014, arXiv:1406.1078; the `reset_after` form) in both directions over T steps, unrolled.

    float32[B, T, C] and bool[B, T] to float32[B, T, 2 * units]. The input projections are one matrix product outside
    the loop, and the loop has a fixed length: it converts to every runtime and halves the cost of small batches.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        width = input_shape[-1]
        self.input_kernel = self.add_weight(shape=(width, 6 * self.units), name="input_kernel")
        self.input_bias = self.add_weight(shape=(6 * self.units,), initializer="zeros", name="input_bias")
        self.recurrent_kernels = [
            self.add_weight(shape=(self.units, 3 * self.units), initializer="orthogonal", name=f"recurrent_kernel_{d}")
            for d in ("forward", "backward")
        ]
        self.recurrent_biases = [
            self.add_weight(shape=(3 * self.units,), initializer="zeros", name=f"recurrent_bias_{d}")
            for d in ("forward", "backward")
        ]

    def call(self, tokens: Any, mask: Any) -> Any:
        projected = ops.matmul(tokens, self.input_kernel) + self.input_bias
        keep = ops.expand_dims(ops.cast(mask, projected.dtype), -1)
        forward, backward = ops.split(projected, 2, axis=-1)
        forward = self._run(forward, keep, 0, reverse=False)
        backward = self._run(backward, keep, 1, reverse=True)
        return ops.concatenate([forward, backward], axis=-1)

    def _run(self, projected: Any, keep: Any, direction: int, *, reverse: bool) -> Any:
        units, steps = self.units, projected.shape[1]
        kernel, bias = self.recurrent_kernels[direction], self.recurrent_biases[direction]
        state = ops.zeros_like(projected[:, 0, :units])
        states = [state] * steps
        # Split rather than sliced: LiteRT's slices go element by element, and took a tenth of a whole forward pass.
        update_inputs, reset_inputs, proposal_inputs = (ops.unstack(part, axis=1) for part in ops.split(projected, 3, axis=-1))
        keep_steps = ops.unstack(keep, axis=1)
        for step in reversed(range(steps)) if reverse else range(steps):
            update, reset, proposal = ops.split(ops.matmul(state, kernel) + bias, 3, axis=-1)
            update = ops.sigmoid(update_inputs[step] + update)
            reset = ops.sigmoid(reset_inputs[step] + reset)
            proposal = ops.tanh(proposal_inputs[step] + reset * proposal)
            moved = update * state + (1.0 - update) * proposal
            state = state + keep_steps[step] * (moved - state)  # padding leaves the state alone
            states[step] = state
        return ops.stack(states, axis=1)

    def compute_output_shape(self, tokens_shape: tuple[int | None, ...], mask_shape: Any = None) -> Any:
        return (*tokens_shape[:-1], 2 * self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("itemlens")
class TokenPooling(layers.Layer):  # type: ignore[misc]
    """Attention-weighted mean over the real tokens: float32[B, T, C] and bool[B, T] to float32[B, C]."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.query = self.add_weight(shape=(input_shape[-1], 1), name="query")

    def call(self, states: Any, mask: Any) -> Any:
        scores = ops.matmul(states, self.query)[:, :, 0]
        scores = ops.where(mask, scores, -1e4)  # finite: an empty title must not make NaN
        weights = ops.expand_dims(ops.softmax(scores, axis=-1), -1)
        return ops.sum(states * weights, axis=1)

    def compute_output_shape(self, states_shape: tuple[int | None, ...], mask_shape: Any = None) -> Any:
        return (states_shape[0], states_shape[-1])


def _loud() -> keras.initializers.Initializer:
    """A new one each time: its seed is drawn when it is made, so that one for all would not follow a run's."""
    return keras.initializers.RandomUniform(-_LOUDNESS, _LOUDNESS)


def text_branch(config: NetworkConfig, token_ids: Any, vocabulary_size: int) -> Any:
    """int32[B, T] to float32[B, F]."""
    mask = layers.Lambda(lambda ids: ops.not_equal(ids, 0), output_shape=(config.max_tokens,), name="token_mask")(token_ids)
    x = layers.Embedding(vocabulary_size, config.token_width, embeddings_initializer=_loud(), name="token_embedding")(token_ids)
    x = layers.SpatialDropout1D(config.dropout / 2, name="token_dropout")(x)
    states = BidirectionalGRU(config.recurrent_width, name="recurrent")(x, mask)
    pooled = TokenPooling(name="token_pooling")(states, mask)
    pooled = layers.Dropout(config.dropout, name="text_dropout")(pooled)
    return layers.Dense(config.fused_width, name="text_dense")(pooled)


def title_heads(config: NetworkConfig, token_ids: Any, *, vocabulary_size: int, logits_width: int) -> Any:
    """int32[B, T] to float32[B, L], nothing until `scripts.title_heads` trains it: the epochs and the finishing passes leave it
    alone. Filters over one, two and three pieces, and of each the loudest place in the title (Kim 2014, arXiv:1408.5882)."""
    width = config.title_heads_width
    real = layers.Lambda(
        lambda ids: ops.expand_dims(ops.cast(ops.not_equal(ids, 0), "float32"), -1),
        output_shape=(config.max_tokens, 1),
        name="real_tokens",
    )(token_ids)
    x = layers.Embedding(
        vocabulary_size, max(1, width // 2), embeddings_initializer=_loud(), name=f"{TITLE_HEADS}_embedding", trainable=False
    )(token_ids)
    x = layers.SpatialDropout1D(0.15, name=f"{TITLE_HEADS}_token_dropout")(x)
    x = layers.Multiply(name=f"{TITLE_HEADS}_tokens")([x, real])
    found = []
    for window in WINDOWS:
        name = f"{TITLE_HEADS}_window{window}"
        y = layers.Conv1D(width, window, padding="same", activation="relu", name=name, trainable=False)(x)
        # Padding counts as silence; a filter's own bias would speak there too.
        found.append(layers.GlobalMaxPooling1D(name=f"{name}_loudest")(layers.Multiply(name=f"{name}_real")([y, real])))
    x = layers.Dropout(0.3, name=f"{TITLE_HEADS}_dropout")(layers.Concatenate(name=f"{TITLE_HEADS}_found")(found))
    return layers.Dense(logits_width, kernel_initializer="zeros", name=TITLE_HEADS, trainable=False)(x)
