"""The network reads what it is given and nothing else, with the bundle's names and shapes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from app.engine.runtimes.base import INPUT_NAMES, OUTPUT_NAMES
from scripts.config import NetworkConfig
from scripts.network import PHOTO_HEADS, build_network, multiply_accumulates, photo_reader, published
from scripts.title_branch import BidirectionalGRU

TOKENS, LOGITS, EMBEDDING = 4, 5, 8


def config(**changes: Any) -> NetworkConfig:
    values: dict[str, Any] = {
        "image_height": 16, "image_width": 12, "widths": (8, 16), "depths": (1, 1), "max_tokens": TOKENS,
        "token_width": 6, "recurrent_width": 5, "fused_width": 12, "embedding_width": EMBEDDING, "dimensions": (4, 8),
    }  # fmt: skip
    return NetworkConfig(**(values | changes))


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    network = build_network(config(), vocabulary_size=50, logits_width=LOGITS)
    for variable in network.trainable_variables:  # away from zeros, or a missing vector would look like any other
        noise = np.random.default_rng(len(variable.path)).normal(0, 0.3, variable.shape)
        variable.assign(np.asarray(variable) + noise)
    return network


def batch(items: int = 3) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(4)
    return {
        "image": rng.integers(0, 256, (items, 16, 12, 3)).astype(np.float32),
        "token_ids": rng.integers(1, 50, (items, TOKENS)).astype(np.int32),
        "image_present": np.ones(items, bool),
        "text_present": np.ones(items, bool),
    }


def answers(network: keras.Model, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    return {name: np.asarray(value) for name, value in network(inputs, training=False).items()}


def same(one: dict[str, Any], other: dict[str, Any], *prefixes: str) -> bool:
    return all(np.allclose(one[name], other[name], atol=1e-5) for name in one if name.split("_")[0] in prefixes)


def test_inputs_and_outputs_are_the_bundles(network: keras.Model) -> None:
    assert {tensor.name for tensor in network.inputs} == set(INPUT_NAMES)
    outputs = answers(network, batch())
    assert set(outputs) == set(OUTPUT_NAMES)
    for name, value in outputs.items():
        width = {"logits": (LOGITS,), "embedding": (EMBEDDING,), "domain": ()}[name.rsplit("_", 1)[1]]
        assert value.shape == (3, *width)
        assert value.dtype == np.float32
        assert np.isfinite(value).all()


def test_embeddings_have_unit_length(network: keras.Model) -> None:
    for name, value in answers(network, batch()).items():
        if name.endswith("_embedding"):
            assert np.allclose(np.linalg.norm(value, axis=1), 1, atol=1e-5)


def test_one_input_alone_is_read_alone(network: keras.Model) -> None:
    plain, other = batch(), batch()
    other["token_ids"] = other["token_ids"][::-1]
    changed_title = answers(network, other)
    assert same(answers(network, plain), changed_title, "image")
    assert not same(answers(network, plain), changed_title, "fused")
    assert not same(answers(network, plain), changed_title, "text")
    other = batch()
    other["image"] = other["image"][::-1]
    changed_photo = answers(network, other)
    assert same(answers(network, plain), changed_photo, "text")
    assert not same(answers(network, plain), changed_photo, "fused")
    assert not same(answers(network, plain), changed_photo, "image")


def test_a_missing_input_counts_for_nothing(network: keras.Model) -> None:
    no_title = batch() | {"text_present": np.zeros(3, bool)}
    found = answers(network, no_title)
    assert np.allclose(found["fused_logits"], found["image_logits"], atol=1e-5)
    assert same(found, answers(network, no_title | {"token_ids": np.zeros((3, TOKENS), np.int32)}), "fused", "image")
    no_photo = batch() | {"image_present": np.zeros(3, bool)}
    found = answers(network, no_photo)
    assert np.allclose(found["fused_embedding"], found["text_embedding"], atol=1e-5)
    assert same(found, answers(network, no_photo | {"image": np.zeros((3, 16, 12, 3), np.float32)}), "fused", "text")


def test_the_flags_do_not_change_what_is_read_alone(network: keras.Model) -> None:
    absent = batch() | {"image_present": np.zeros(3, bool), "text_present": np.zeros(3, bool)}
    assert same(answers(network, batch()), answers(network, absent), "image", "text")


def test_a_photo_reader_says_what_its_network_says() -> None:
    alone = build_network(config(max_tokens=0), vocabulary_size=1, logits_width=LOGITS)
    given = batch() | {"token_ids": np.zeros((3, 1), np.int32)}
    read = photo_reader(alone)({"image": given["image"], "image_present": given["image_present"]})
    assert np.array_equal(np.asarray(read), answers(alone, given)["image_logits"])


@pytest.mark.parametrize(("stem", "side"), [("small", 16), ("stride2", 8), ("stride4", 4)])
def test_the_stem_decides_the_size_of_the_first_stage(stem: Any, side: int) -> None:
    built = build_network(config(stem=stem), vocabulary_size=50, logits_width=LOGITS)
    probe = keras.Model(built.inputs, built.get_layer("stage0_block0_out").output)
    assert probe(batch(1)).shape[1] == side


def test_a_vector_of_nothing_has_no_direction_and_a_finite_slope(network: keras.Model) -> None:
    unit = network.get_layer("unit")
    vectors = tf.Variable([[0.0] * EMBEDDING, [3.0, 4.0] + [0.0] * (EMBEDDING - 2)])
    with tf.GradientTape() as tape:
        result = unit(vectors)
    assert np.asarray(result)[:, :2].tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)]]
    assert np.isfinite(np.asarray(tape.gradient(result, vectors))).all()


def test_an_item_does_not_depend_on_its_batch(network: keras.Model) -> None:
    whole = answers(network, batch())
    alone = answers(network, {name: value[1:2] for name, value in batch().items()})
    assert all(np.allclose(whole[name][1:2], alone[name], atol=1e-5) for name in whole)


def test_an_empty_title_and_a_full_one_are_both_finite(network: keras.Model) -> None:
    tokens = np.array([[0] * TOKENS, [7] + [0] * (TOKENS - 1), [7] * TOKENS], np.int32)
    found = answers(network, batch() | {"token_ids": tokens})
    assert all(np.isfinite(value).all() for value in found.values())
    assert not np.allclose(found["text_logits"][1], found["text_logits"][2])


def test_the_photos_own_heads_speak_where_there_is_no_title_and_nowhere_else() -> None:
    network = build_network(config(photo_heads_width=10), vocabulary_size=50, logits_width=LOGITS)
    no_title = batch() | {"text_present": np.zeros(3, bool)}
    silent, silent_alone = answers(network, batch()), answers(network, no_title)
    kernel = network.get_layer(PHOTO_HEADS).kernel
    kernel.assign(np.random.default_rng(1).normal(0, 1, kernel.shape))
    heard, alone = answers(network, batch()), answers(network, no_title)
    assert not np.allclose(silent["image_logits"], heard["image_logits"], atol=1e-3)
    assert not np.allclose(silent_alone["fused_logits"], alone["fused_logits"], atol=1e-3)
    assert np.allclose(alone["fused_logits"], alone["image_logits"], atol=1e-5)
    assert np.array_equal(silent["fused_logits"], heard["fused_logits"])
    assert same(silent, heard, "text")
    assert all(np.array_equal(silent[name], heard[name]) for name in heard if name.endswith(("_embedding", "_in_domain")))


def test_the_photos_own_heads_read_every_block() -> None:
    network = build_network(config(photo_heads_width=10), vocabulary_size=50, logits_width=LOGITS)
    assert network.get_layer(f"{PHOTO_HEADS}_hidden").kernel.shape == (8 + 16, 10)


def test_what_is_published_answers_the_same_without_the_weights_of_the_rest() -> None:
    given = config(photo_heads_width=10, title_heads_width=4)
    network = build_network(given, vocabulary_size=50, logits_width=LOGITS)
    random = np.random.default_rng(6)
    for variable in network.variables:
        if "seed" not in variable.path:
            variable.assign(random.uniform(0.1, 0.5, variable.shape))
    smaller = published(network, given, width=2)
    assert smaller.count_params() < network.count_params()
    for inputs in (batch(), batch() | {"text_present": np.zeros(3, bool)}):
        whole, cut = answers(network, inputs), answers(smaller, inputs)
        assert set(whole) == set(cut)
        for name, value in whole.items():
            assert np.allclose(cut[name], value[:, :2] if name.endswith("_logits") else value, atol=1e-5), name


def test_photos_of_other_sizes_are_read_too(network: keras.Model) -> None:
    smaller = batch() | {"image": np.zeros((3, 8, 8, 3), np.float32)}
    assert answers(network, smaller)["fused_logits"].shape == (3, LOGITS)


@pytest.mark.parametrize(("changes", "branch"), [({"image_height": 0, "image_width": 0}, "text"), ({"max_tokens": 0}, "image")])
def test_a_network_with_one_branch_ignores_the_other_input(changes: dict[str, int], branch: str) -> None:
    network = build_network(config(**changes), vocabulary_size=50, logits_width=LOGITS)
    inputs = batch()
    if branch == "image":
        inputs["token_ids"] = np.ones((3, 1), np.int32)
    found = answers(network, inputs)
    assert set(found) == set(OUTPUT_NAMES)
    assert np.allclose(found["fused_logits"], found[f"{branch}_logits"], atol=1e-5)
    changed = dict(inputs)
    for name in ("image", "image_present") if branch == "text" else ("token_ids", "text_present"):
        changed[name] = np.zeros_like(inputs[name])
    assert same(found, answers(network, changed), "fused", branch)


def test_the_recurrent_layer_is_a_gru_in_both_directions() -> None:
    units, rng = 3, np.random.default_rng(9)
    layer = BidirectionalGRU(units)
    tokens, mask = rng.normal(size=(2, 5, 4)).astype(np.float32), np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    layer(tokens, mask)
    for variable in layer.variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    found = np.asarray(layer(tokens, mask))
    kernel, bias = np.asarray(layer.input_kernel), np.asarray(layer.input_bias)
    for direction in range(2):
        part = slice(direction * 3 * units, (direction + 1) * 3 * units)
        reference = keras.layers.GRU(units, return_sequences=True, go_backwards=bool(direction), unroll=True, use_cudnn=False)
        reference.build((None, 5, 4))
        recurrent_bias = np.asarray(layer.recurrent_biases[direction])
        reference.set_weights(
            [kernel[:, part], np.asarray(layer.recurrent_kernels[direction]), np.stack([bias[part], recurrent_bias])]
        )
        for row in range(2):
            length = int(mask[row].sum())
            expected = np.asarray(reference(tokens[row : row + 1, :length]))[0]
            expected = expected[::-1] if direction else expected
            half = found[row, :length, direction * units : (direction + 1) * units]
            assert np.allclose(half, expected, atol=1e-5)


def test_no_step_of_the_recurrent_layer_is_a_slice_on_litert() -> None:
    """Its slices go element by element: four a step cost a tenth of the shipped model's forward pass."""
    layer, steps = BidirectionalGRU(4), 5
    layer(np.zeros((1, steps, 3), np.float32), np.ones((1, steps), bool))
    signature = [tf.TensorSpec([1, steps, 3], tf.float32), tf.TensorSpec([1, steps], tf.bool)]
    frozen = convert_variables_to_constants_v2(tf.function(layer, input_signature=signature).get_concrete_function())
    converted = tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert()
    operations = [operation["op_name"] for operation in Interpreter(model_content=converted)._get_ops_details()]
    assert operations.count("FULLY_CONNECTED") >= steps
    assert operations.count("STRIDED_SLICE") + operations.count("SLICE") < steps


def test_multiply_accumulates_are_those_of_the_convolutions() -> None:
    small = config(stem="small", widths=(4,), depths=(1,), image_height=10, image_width=10)
    network = build_network(small, vocabulary_size=50, logits_width=LOGITS)
    stem, block = 10 * 10 * 9 * 3 * 4, 2 * 10 * 10 * 9 * 4 * 4
    assert multiply_accumulates(network, small) == stem + block
