"""The multimodal network: a CNN reads the photo, an RNN reads the title, a gate joins them.

Owns the architecture, written with `keras.ops` so that it trains on any Keras backend. Refuses to know data, losses and
files. Shapes: B items, H x W pixels, T tokens, F fused width, L logits over all heads, D embedding width.

Dense 3x3 convolutions with batch normalisation and ReLU are chosen for the hardware that serves them: on CPUs with
vector int8 they run several times faster per FLOP than depthwise ones or LayerNorm/GELU blocks.
"""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from scripts.arithmetic import layers_in
from scripts.config import NetworkConfig
from scripts.title_branch import text_branch, title_heads

PATTERNS = ("fused", "image", "text")
PHOTO_HEADS = "photo_heads"


@keras.saving.register_keras_serializable("itemlens")
class GatedFusion(layers.Layer):  # type: ignore[misc]
    """Join the two branches, or stand in a learned vector for the one that is missing.

    A gate per channel (Arevalo et al. 2017, arXiv:1702.01992) mixes the branches and a residual layer lets them
    interact. Called with float32[B, F] twice and bool[B] twice; gives float32[B, F].
    """

    def __init__(self, width: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.dropout = width, dropout
        self.gate = layers.Dense(width, activation="sigmoid", name="gate")
        self.hidden = layers.Dense(width, activation="relu", name="hidden")
        self.mixed = layers.Dense(width, name="mixed")
        self.drop = layers.Dropout(dropout)

    def build(self, image_shape: Any, text_shape: Any = None, *_: Any) -> None:
        self.missing_image = self.add_weight(shape=(self.width,), initializer="zeros", name="missing_image")
        self.missing_text = self.add_weight(shape=(self.width,), initializer="zeros", name="missing_text")
        self.gate.build((None, 2 * self.width))
        self.hidden.build((None, 2 * self.width))
        self.mixed.build((None, self.width))
        self.built = True

    def call(self, image: Any, text: Any, image_present: Any, text_present: Any, training: bool = False) -> Any:
        # JAX takes arrays alone where Keras' other backends take variables too.
        image = ops.where(ops.expand_dims(image_present, -1), image, ops.convert_to_tensor(self.missing_image))
        text = ops.where(ops.expand_dims(text_present, -1), text, ops.convert_to_tensor(self.missing_text))
        joined = ops.concatenate([image, text], axis=-1)
        gate = self.gate(joined)
        mixed = gate * image + (1.0 - gate) * text
        hidden = self.drop(self.hidden(joined), training=training)
        return ops.relu(mixed + self.mixed(hidden))

    def compute_output_shape(self, image_shape: Any, *_: Any) -> Any:
        return (image_shape[0], self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "dropout": self.dropout}


def _convolution(x: Any, width: int, *, stride: int = 1, kernel: int = 3, relu: bool = True, name: str) -> Any:
    x = layers.Conv2D(width, kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=0.97, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _residual_block(x: Any, width: int, *, stride: int, name: str) -> Any:
    """Two 3x3 convolutions round a shortcut (He et al. 2015, arXiv:1512.03385)."""
    y = _convolution(x, width, stride=stride, name=f"{name}_a")
    y = _convolution(y, width, relu=False, name=f"{name}_b")
    if stride != 1 or x.shape[-1] != width:
        x = _convolution(x, width, stride=stride, kernel=1, relu=False, name=f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))


def _image_branch(config: NetworkConfig, image: Any, dtype: str) -> tuple[Any, list[Any]]:
    """float32[B, F], and what each block said."""
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="normalise")(image)
    blocks = []
    with layers_in(dtype):
        if config.stem == "stride4":
            x = _convolution(x, config.widths[0] // 2, stride=2, name="stem_a")
            x = _convolution(x, config.widths[0], stride=2, name="stem_b")
        else:
            x = _convolution(x, config.widths[0], stride=2 if config.stem == "stride2" else 1, name="stem")
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for block in range(depth):
                x = _residual_block(x, width, stride=2 if stage and not block else 1, name=f"stage{stage}_block{block}")
                blocks.append(x)
    x = layers.GlobalAveragePooling2D(name="image_pool")(x)
    x = layers.Dropout(config.dropout, name="image_dropout")(x)
    return layers.Dense(config.fused_width, name="image_dense")(x), blocks


def _photo_heads(config: NetworkConfig, blocks: list[Any], logits_width: int) -> Any:
    """float32[B, L], nothing until `scripts.photo_heads` trains it: the epochs and the finishing passes leave it alone."""
    pools = [layers.GlobalAveragePooling2D(name=f"image_pool{number}")(block) for number, block in enumerate(blocks)]
    x = layers.Concatenate(name="image_pools")(pools)
    x = layers.BatchNormalization(center=False, scale=False, name=f"{PHOTO_HEADS}_norm", trainable=False)(x)
    x = layers.Dropout(0.2, name=f"{PHOTO_HEADS}_dropout")(x)
    x = layers.Dense(config.photo_heads_width, activation="relu", name=f"{PHOTO_HEADS}_hidden", trainable=False)(x)
    x = layers.Dropout(0.5, name=f"{PHOTO_HEADS}_hidden_dropout")(x)
    return layers.Dense(logits_width, kernel_initializer="zeros", name=PHOTO_HEADS, trainable=False)(x)


def build_network(
    config: NetworkConfig, *, vocabulary_size: int, logits_width: int, convolution_dtype: str = "float32"
) -> keras.Model:
    """The network as a functional model with the bundle's named inputs and outputs (see `models/README.md`).

    `image` is float32 or uint8[B, H, W, 3] in 0..255, of any size that the strides allow (training varies it).
    `logits_width` is L, the summed size of all heads, auxiliary ones included. `convolution_dtype` is the Keras dtype policy of
    the convolutions (`scripts.arithmetic`); weights and all else are float32. A missing branch is a constant, so the
    four inputs and eight outputs are there for every model.
    """
    has_image, has_text = config.image_height > 0, config.max_tokens > 0
    inputs = {
        "image": keras.Input((None, None, 3), name="image"),
        "token_ids": keras.Input((max(1, config.max_tokens),), dtype="int32", name="token_ids"),
        "image_present": keras.Input((), dtype="bool", name="image_present"),
        "text_present": keras.Input((), dtype="bool", name="text_present"),
    }
    blank = layers.Lambda(
        lambda flag: ops.tile(ops.zeros_like(ops.expand_dims(ops.cast(flag, "float32"), -1)), (1, config.fused_width)),
        output_shape=(config.fused_width,),
        name="blank",
    )(inputs["image_present"])
    image, blocks = _image_branch(config, inputs["image"], convolution_dtype) if has_image else (blank, [])
    text = text_branch(config, inputs["token_ids"], vocabulary_size) if has_text else blank
    flag = layers.Lambda(lambda f: ops.ones_like(f), output_shape=(), name="present")
    no_flag = layers.Lambda(lambda f: ops.zeros_like(f), output_shape=(), name="absent")
    present, absent = flag(inputs["image_present"]), no_flag(inputs["image_present"])
    image_given = inputs["image_present"] if has_image else absent
    text_given = inputs["text_present"] if has_text else absent

    fusion = GatedFusion(config.fused_width, config.dropout, name="fusion")
    features = {
        "fused": fusion(image, text, image_given, text_given),
        "image": fusion(image, text, present if has_image else absent, absent),
        "text": fusion(image, text, absent, present if has_text else absent),
    }
    heads = layers.Dense(logits_width, name="heads")
    head_dropout = layers.Dropout(config.dropout, name="head_dropout")
    embedding = layers.Dense(config.embedding_width, name="embedding")
    unit = layers.Lambda(_unit_length, output_shape=(config.embedding_width,), name="unit")
    outputs = {}
    photo_heads = _photo_heads(config, blocks, logits_width) if has_image and config.photo_heads_width else None
    words = None
    if has_text and config.title_heads_width:
        words = title_heads(config, inputs["token_ids"], vocabulary_size=vocabulary_size, logits_width=logits_width)
    for pattern in PATTERNS:
        logits = layers.Identity(name=f"{pattern}_shared")(heads(head_dropout(features[pattern])))
        if photo_heads is not None and pattern != "text":
            no_text = layers.Lambda(ops.logical_not, output_shape=(), name=f"{pattern}_no_text")
            add = layers.Lambda(_add_where, output_shape=(logits_width,), name=f"{pattern}_added")
            logits = add([logits, photo_heads, present if pattern == "image" else no_text(text_given)])
        if words is not None and pattern != "image":
            add = layers.Lambda(_add_where, output_shape=(logits_width,), name=f"{pattern}_words_added")
            logits = add([logits, words, present if pattern == "text" else text_given])
        outputs[f"{pattern}_logits"] = logits
        outputs[f"{pattern}_embedding"] = unit(embedding(features[pattern]))
    scalar = layers.Reshape((), name="scalar")
    # A linear read-out of the branch, trained on made outliers; relu keeps it from being a mere direction.
    for branch, value in (("image", image), ("text", text)):
        hidden = layers.Dense(64, activation="relu", name=f"{branch}_domain_hidden")(value)
        outputs[f"{branch}_in_domain"] = scalar(layers.Dense(1, name=f"{branch}_domain")(hidden))
    return keras.Model(inputs, outputs, name="itemlens")


def _unit_length(vectors: Any) -> Any:
    """Keras' own layer has no derivative at zero on JAX, where an untrained network puts an empty title."""
    return vectors * ops.rsqrt(ops.maximum(ops.sum(ops.square(vectors), axis=-1, keepdims=True), 1e-12))


def _add_where(parts: list[Any]) -> Any:
    logits, more, is_added = parts
    return ops.where(ops.expand_dims(is_added, -1), logits + more, logits)


def blank_titles(network: keras.Model, items: int) -> dict[str, Any]:
    """The inputs of `items` photos without titles, but for the photos."""
    shape = next(tensor.shape for tensor in network.inputs if tensor.name == "token_ids")
    return {
        "token_ids": np.zeros((items, *shape[1:]), np.int32),
        "image_present": np.ones(items, np.bool_),
        "text_present": np.zeros(items, np.bool_),
    }


def photo_reader(network: keras.Model) -> keras.Model:
    """A network without titles as a function: `image` [B, H, W, 3] and `image_present` bool[B] to logits float32[B, L]."""
    inputs = {tensor.name: tensor for tensor in network.inputs if tensor.name in ("image", "image_present")}
    return keras.Model(inputs, network.output["image_logits"])


def shared_logits(network: keras.Model) -> dict[str, Any]:
    """The outputs that are logits, as the shared heads alone say them."""
    return {f"{pattern}_logits": network.get_layer(f"{pattern}_shared").output for pattern in PATTERNS}


def published(network: keras.Model, config: NetworkConfig, *, width: int) -> keras.Model:
    """The network with the first `width` logits alone: auxiliary heads have done their work in training, and would be carried
    along by every service."""
    vocabulary_size = network.get_layer("token_embedding").input_dim if config.max_tokens else 1
    smaller = build_network(config, vocabulary_size=vocabulary_size, logits_width=width)
    trained = {variable.path: np.asarray(variable) for variable in network.variables}
    for variable in smaller.variables:
        if "seed_generator" not in variable.path:
            value = trained[variable.path]
            variable.assign(value if value.shape == tuple(variable.shape) else value[..., :width])
    return smaller


def without_photo_branch(network: keras.Model) -> keras.Model:
    """The network from the photo branch's result on: its input `image` is float32[B, F] in place of photos.

    What the photo's and the title's own heads add is left out.
    """
    inputs = {tensor.name: tensor for tensor in network.inputs}
    outputs = network.output | shared_logits(network)
    inputs["image"] = network.get_layer("image_dense").output
    with warnings.catch_warnings():
        # Keras wants the tensor to be called `image` too, but it is another layer's output here.
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        return keras.Model(inputs, outputs)


def multiply_accumulates(model: keras.Model, config: NetworkConfig) -> int:
    """Multiply-accumulate operations of one photo's convolutions at the full input size."""
    total, size = 0, {}
    probe = keras.Model(model.inputs, {layer.name: layer.output for layer in model.layers if isinstance(layer, layers.Conv2D)})
    shape = probe.compute_output_shape(
        {
            "image": (1, config.image_height, config.image_width, 3),
            "token_ids": (1, max(1, config.max_tokens)),
            "image_present": (1,),
            "text_present": (1,),
        }
    )
    size.update(shape)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            _, height, width, _ = size[layer.name]
            total += (
                height
                * width
                * int(layer.kernel.shape[0] * layer.kernel.shape[1])
                * int(layer.kernel.shape[2] * layer.kernel.shape[3])
            )
    return total
