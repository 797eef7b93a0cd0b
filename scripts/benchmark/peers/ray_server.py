"""The bundle behind Ray Serve. Arguments: port, then the tuning as JSON.

What its settings mean here: `replicas` are processes with a model each, behind one proxy process that speaks HTTP;
`max_ongoing_requests` has to be well above its default of 5 or no batch ever fills. `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`
(set by the command) runs user code and router in one loop, which saves two thread hops. Its HAProxy ingress is not measured:
it listens on every interface, whatever host is asked for, and a benchmark must not open a machine to its network.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from scripts.benchmark.peers.shared_model import SharedModel


def main() -> None:
    port, tuning = int(sys.argv[1]), json.loads(sys.argv[2])

    @serve.deployment(
        num_replicas=tuning["replicas"],
        max_ongoing_requests=256,
        # A fraction, since the proxy and the controller want a share of the cores too.
        ray_actor_options={"num_cpus": 0.5},
    )
    class Classifier:
        """Parses by hand: a FastAPI ingress costs another millisecond."""

        def __init__(self) -> None:
            self.model = SharedModel()

        @serve.batch(max_batch_size=tuning["batch_items"], batch_wait_timeout_s=tuning["batch_timeout_s"])  # type: ignore[untyped-decorator,unused-ignore]
        async def answer(self, items: list[dict[str, str]]) -> list[dict[str, Any]]:
            return self.model.answer([self.model.read(item["image"], item["text"]) for item in items])

        async def __call__(self, request: Request) -> Any:
            if request.method == "GET":
                return {"status": "ok"}
            return await self.answer(json.loads(await request.body()))

    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=True, logging_level="warning", num_cpus=4)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
    serve.run(Classifier.bind(), route_prefix="/classify")  # type: ignore[attr-defined,unused-ignore]
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
