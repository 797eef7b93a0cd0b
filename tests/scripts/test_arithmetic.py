"""Products are rounded to bfloat16 while fitting, and only there."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from scripts.arithmetic import bfloat16_products, convolution_dtype, has_bfloat16, layers_in


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("flags : fpu avx512f avx512_bf16 amx_tile", True), ("flags : fpu amx_bf16", True), ("flags : fpu avx512f avx2", False)],
)
def test_the_processor_decides(tmp_path: Path, flags: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\n{flags}\n")
    assert has_bfloat16(cpuinfo) is expected
    with bfloat16_products(True, cpuinfo) as active:
        assert active is (expected and keras.backend.backend() == "tensorflow")


def test_a_processor_that_does_not_say_counts_as_without(tmp_path: Path) -> None:
    assert not has_bfloat16(tmp_path / "absent")


def test_it_ends_with_the_block_and_when_unwanted(tmp_path: Path) -> None:
    import tensorflow as tf

    option = "auto_mixed_precision_onednn_bfloat16"
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : avx512_bf16\n")
    with bfloat16_products(False, cpuinfo) as active:
        assert not active

    def stopped_fit() -> None:
        with bfloat16_products(True, cpuinfo):
            assert tf.config.optimizer.get_experimental_options()[option]
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped_fit()
    assert not tf.config.optimizer.get_experimental_options().get(option, False)


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU does not multiply bfloat16")
def test_products_inside_are_rounded_and_outside_are_not() -> None:
    import tensorflow as tf

    generator = np.random.default_rng(1)
    left, right = (tf.constant(generator.normal(size=(256, 256)).astype(np.float32)) for _ in range(2))
    exact = np.asarray(left) @ np.asarray(right)

    def error() -> float:
        product = tf.function(lambda a, b: tf.nn.relu(tf.matmul(a, b) + 1.0) - 1.0)(left, right)
        return float(np.abs(np.asarray(product) - np.maximum(exact, -1.0)).max())

    with bfloat16_products(True):
        inside = error()
    assert inside > 100 * error()


def test_layers_made_inside_have_the_policy_and_their_weights_stay_whole() -> None:
    with layers_in("mixed_bfloat16"):
        inside = keras.layers.Dense(2)
    outside = keras.layers.Dense(2)
    assert inside(np.ones((1, 3), np.float32)).dtype == "bfloat16"
    assert inside.kernel.dtype == "float32"
    assert outside(np.ones((1, 3), np.float32)).dtype == "float32"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX may have an accelerator")
def test_convolutions_are_whole_where_the_graph_rewriter_rounds_them() -> None:
    assert convolution_dtype(True) == convolution_dtype(False) == "float32"
