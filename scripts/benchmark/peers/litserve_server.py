"""The bundle behind LitServe. Arguments: port, then the tuning as JSON.

What its settings mean here: `workers` are processes with a model each (`workers_per_device`); requests reach them through a
queue, by default a manager's and with `fast_queue` ZeroMQ's, which costs far less; `api_servers` are the processes that
speak HTTP. Decoding runs in the workers.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import litserve

from scripts.benchmark.peers.shared_model import SharedModel


class ClassifyApi(litserve.LitAPI):  # type: ignore[misc]
    """One item a request; LitServe makes the batches."""

    def setup(self, device: str) -> None:
        self.model = SharedModel()

    def decode_request(self, request: dict[str, str]) -> Any:
        return self.model.read(request["image"], request["text"])

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, rows: Any) -> Any:
        return self.model.answer(rows) if isinstance(rows, list) else self.model.answer([rows])[0]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main() -> None:
    port, tuning = int(sys.argv[1]), json.loads(sys.argv[2])
    api = ClassifyApi(
        max_batch_size=tuning["batch_items"], batch_timeout=tuning["batch_timeout_s"], api_path="/predict", enable_async=False
    )
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=tuning["workers"], fast_queue=tuning["fast_queue"], timeout=60
    )
    server.run(
        host="127.0.0.1", port=port, num_api_servers=tuning["api_servers"], log_level="warning", generate_client_file=False
    )


if __name__ == "__main__":
    main()
