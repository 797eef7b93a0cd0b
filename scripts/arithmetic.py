"""Half the bits for the multiplications of training, where the processor gains by it.

Owns which layers multiply in what, and switching TensorFlow's graph rewriter on and off. With it, convolutions and matrix
products inside a `tf.function` are done in bfloat16 by oneDNN, the rest in float32: a fit of the fashion network is 1.5 times
as fast on two cores with AVX-512 BF16. Refuses to touch serving and calibration, which see float32 throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

_FLAGS = ("avx512_bf16", "amx_bf16")


@contextmanager
def bfloat16_products(wanted: bool, cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[bool]:
    """Functions first run inside multiply in bfloat16. Yields whether that is so: only on the TensorFlow backend, and only
    where the CPU has the instructions (emulated they are slower than float32)."""
    if not wanted or keras.backend.backend() != "tensorflow" or not has_bfloat16(cpuinfo):
        yield False
        return
    import tensorflow as tf

    option = "auto_mixed_precision_onednn_bfloat16"
    tf.config.optimizer.set_experimental_options({option: True})
    try:
        yield True
    finally:
        tf.config.optimizer.set_experimental_options({option: False})


def convolution_dtype(wanted: bool) -> str:
    """The Keras dtype policy for the convolutions of a network that is trained here: `mixed_bfloat16` where JAX has an
    accelerator, float32 elsewhere (on CPUs with TensorFlow the graph rewriter does it)."""
    if not wanted or keras.backend.backend() != "jax":
        return "float32"
    import jax

    return "mixed_bfloat16" if jax.default_backend() != "cpu" else "float32"


@contextmanager
def layers_in(dtype: str) -> Iterator[None]:
    """Keras layers made inside have this dtype policy."""
    kept = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(kept)


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 in vectors or tiles."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return False
    return any(flag in words for flag in _FLAGS)
