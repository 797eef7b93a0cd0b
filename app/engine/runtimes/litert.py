"""LiteRT: executes `model.tflite`. The only module that imports `ai_edge_litert`.

Owns one interpreter per batch bucket: tensors are allocated once per bucket, since re-allocating at every change of
batch size would re-pack all weights (about 10 ms). Refuses to know batching and bundles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.errors import BundleError
from app.engine.runtimes.base import SIGNATURE_KEY, Arrays, ModelSpec, check_names, check_outputs, pad_to_bucket

MODEL_FILE = "model.tflite"


class LiteRTRuntime:
    """See `app.engine.runtimes.base.Runtime`. Raises BundleError for a file that LiteRT refuses."""

    name = "litert"

    def __init__(self, spec: ModelSpec, *, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise BundleError("LiteRT is not installed; run: pip install ai-edge-litert") from error
        self._interpreters: dict[int, Any] = {}
        try:
            for bucket in spec.batch_buckets:
                # From the path, not from bytes: the buckets then share the file's pages.
                interpreter = Interpreter(model_path=str(spec.folder / MODEL_FILE), num_threads=threads)
                if not self._interpreters:
                    self._inputs, self._outputs = _tensor_indices(interpreter)
                for name, (shape, _) in spec.input_shapes().items():
                    interpreter.resize_tensor_input(self._inputs[name], (bucket, *shape), strict=True)
                interpreter.allocate_tensors()
                self._interpreters[bucket] = interpreter
        except (ValueError, RuntimeError) as error:  # LiteRT's own refusals are these two
            raise BundleError(f"{MODEL_FILE}: LiteRT refuses it: {_first_line(error)}") from error
        check_outputs(self.run(spec.blank_batch(1)), spec, items=1, file=MODEL_FILE)

    @property
    def buckets(self) -> tuple[int, ...]:
        return tuple(self._interpreters)

    def run(self, batch: Arrays) -> dict[str, NDArray[np.float32]]:
        items = len(batch["image_present"])
        bucket, padded = pad_to_bucket(batch, self.buckets)
        interpreter = self._interpreters[bucket]
        for name, index in self._inputs.items():
            interpreter.set_tensor(index, padded[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(index)[:items] for name, index in self._outputs.items()}

    def keep_buckets(self, largest: int) -> None:
        self._interpreters = {bucket: kept for bucket, kept in self._interpreters.items() if bucket <= largest}

    def close(self) -> None:
        self._interpreters.clear()


def _tensor_indices(interpreter: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Tensor index by name, of the inputs and of the outputs of the signature."""
    signature = interpreter.get_signature_list().get(SIGNATURE_KEY)
    if signature is None:
        raise BundleError(f"{MODEL_FILE}: it has no signature {SIGNATURE_KEY}")
    check_names(signature["inputs"], signature["outputs"], file=MODEL_FILE)
    # The runner refers to the interpreter's memory, which may not be resized while it lives: do not keep it.
    runner = interpreter.get_signature_runner(SIGNATURE_KEY)
    inputs = {name: int(detail["index"]) for name, detail in runner.get_input_details().items()}
    outputs = {name: int(detail["index"]) for name, detail in runner.get_output_details().items()}
    return inputs, outputs


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
