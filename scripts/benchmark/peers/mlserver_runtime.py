"""The bundle behind MLServer: its `implementation`.

What its settings mean here: `parallel_workers` are processes that requests reach as pickles over a queue (0 answers in the
process that speaks HTTP; its documentation advises as many as cores); adaptive batching concatenates the requests' tensors
before they are sent there. Compression is off: the client asks for none.
"""

from __future__ import annotations

import json

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from scripts.benchmark.peers.shared_model import SharedModel


class ClassifyModel(MLModel):  # type: ignore[misc]
    """Open Inference Protocol in and out: two string tensors, one string tensor of JSON answers."""

    async def load(self) -> bool:
        self.model = SharedModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        columns = {tensor.name: list(tensor.data) for tensor in payload.inputs}
        rows = [self.model.read(_text(i), _text(t)) for i, t in zip(columns["image"], columns["text"], strict=True)]
        answers = [json.dumps(answer) for answer in self.model.answer(rows)]
        output = ResponseOutput(name="answers", shape=[len(answers), 1], datatype="BYTES", data=answers)
        return InferenceResponse(model_name=self.name, outputs=[output])


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
