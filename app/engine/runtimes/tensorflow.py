"""TensorFlow: executes the SavedModel as one frozen function. The only serving module that imports `tensorflow`.

Owns loading, freezing to constants (2.0 against 3.2 ms per item: the variables' reads and call nesting go away) and the
thread settings. Refuses to know batching and bundles.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.errors import BundleError
from app.engine.runtimes.base import SIGNATURE_KEY, Arrays, ModelSpec, check_names, check_outputs, pad_to_bucket

MODEL_FILE = "saved_model.pb"


class TensorFlowRuntime:
    """See `app.engine.runtimes.base.Runtime`. Raises BundleError for a model that TensorFlow refuses."""

    name = "tensorflow"

    def __init__(self, spec: ModelSpec, *, threads: int) -> None:
        tf, freeze = _import_tensorflow()
        _set_threads(tf, threads)
        try:
            loaded = tf.saved_model.load(str(spec.folder))
        except Exception as error:  # the loader lets parser, graph and file system errors of many types through
            raise BundleError(f"{MODEL_FILE}: TensorFlow refuses it: {_first_line(error)}") from error
        if SIGNATURE_KEY not in loaded.signatures:
            raise BundleError(f"{MODEL_FILE}: it has no signature {SIGNATURE_KEY}")
        signature = loaded.signatures[SIGNATURE_KEY]
        input_specs = signature.structured_input_signature[1]
        check_names(input_specs, signature.structured_outputs, file=MODEL_FILE)
        for name, (shape, dtype) in spec.input_shapes().items():
            found = input_specs[name]
            if found.shape.as_list() != [None, *shape] or found.dtype.as_numpy_dtype != dtype.type:
                raise BundleError(f"{MODEL_FILE}: input {name} is {found.dtype.name}{found.shape}, not {dtype}{[None, *shape]}")
        self._function = freeze(signature)
        self._constant = tf.constant
        self._input_names = [tensor.name.split(":")[0] for tensor in self._function.inputs]
        # Freezing flattens the signature's outputs, a dict, in the order of the sorted names.
        self._output_names = sorted(signature.structured_outputs)
        self._buckets = spec.batch_buckets
        check_outputs(self.run(spec.blank_batch(1)), spec, items=1, file=MODEL_FILE)

    @property
    def buckets(self) -> tuple[int, ...]:
        return self._buckets

    def run(self, batch: Arrays) -> dict[str, NDArray[np.float32]]:
        items = len(batch["image_present"])
        # The graph takes any batch size; padding keeps oneDNN's cache of prepared kernels to one entry per bucket.
        _, padded = pad_to_bucket(batch, self._buckets)
        outputs = self._function(*(self._constant(padded[name]) for name in self._input_names))
        return {name: output.numpy()[:items] for name, output in zip(self._output_names, outputs, strict=True)}

    def keep_buckets(self, largest: int) -> None:
        self._buckets = tuple(bucket for bucket in self._buckets if bucket <= largest)

    def close(self) -> None:
        self._function = None


def _import_tensorflow() -> tuple[Any, Any]:
    """The library and its function that freezes a signature."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notes are not about this service
    try:
        import tensorflow as tf

        # Outside the public names, yet the one that TensorFlow's own converters and guides use; the public namesake in
        # compat.v1 needs sessions.
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
    except ImportError as error:
        raise BundleError("TensorFlow is not installed; run: pip install itemlens[tensorflow]") from error
    return tf, convert_variables_to_constants_v2


def _set_threads(tf: Any, threads: int) -> None:
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        # TensorFlow is in use already (a second model, training code): its threads are the process's, set once.
        return


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
