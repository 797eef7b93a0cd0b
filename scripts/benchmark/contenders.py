"""Who is measured: how each is started, asked and tuned.

Owns the list and each one's tuning sweep. Refuses to know how anything is measured.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmark import samples
from scripts.benchmark.samples import Request, Sample
from scripts.benchmark.server import Server, free_port

ROOT = Path(__file__).resolve().parents[2]
ATTRIBUTE = "articleType"
"""The attribute by which answers are compared."""
Tuning = Mapping[str, Any]
SERVICE, PLAIN = "itemlens", "fastapi-tensorflow"


@dataclass(frozen=True)
class Surroundings:
    """What every contender is given: the bundle, a folder that holds it alone as <name>/<version>, and one to write to."""

    bundle: Path
    models_dir: Path
    out: Path


@dataclass(frozen=True)
class Contender:
    """`command` and `variables` take the surroundings, the tuning and the port; `requests` takes the tuning too."""

    name: str
    command: Callable[[Surroundings, Tuning, int], Sequence[str]]
    requests: Callable[[Sequence[Sample], Tuning], list[Request]]
    ready_path: str
    sweep: Sequence[Tuning]
    """Tunings to try; the first is taken where there is no time to try."""
    packages: Sequence[str] = ()
    """What its environment needs beside the engine's packages; empty: it runs in this one."""
    variables: Callable[[Surroundings, Tuning, int], Mapping[str, str]] = field(default=lambda around, tuning, port: {})
    start_timeout_s: float = 180.0

    def start(self, around: Surroundings, tuning: Tuning, *, label: str = "") -> Server:
        """Begin to start it on a free port; not ready yet."""
        port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("ITEMLENS_", "BENCHMARK_"))}
        environment |= {
            "PYTHONPATH": str(ROOT),
            # An image ships its bytecode; the first start makes it here, once for each environment.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPYCACHEPREFIX": str(around.out / "bytecode"),
            # Each worker computes on its own core; pools of linear algebra threads would fight over them.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "BENCHMARK_BUNDLE": str(around.bundle),
        }
        environment |= self.variables(around, tuning, port)
        name = self.name + (f"-{label}" if label else "")
        command = self.command(around, tuning, port)
        return Server(self.name, command, environment, port=port, log=around.out / "logs" / f"{name}.log", cwd=ROOT)

    def python(self, around: Surroundings) -> str:
        """The interpreter of its environment."""
        return str(environment_folder(around.out, self) / "bin" / "python") if self.packages else sys.executable


def environment_folder(out: Path, contender: Contender) -> Path:
    return out / "envs" / contender.name


def label_of(answer: bytes) -> str | None:
    """The label of `ATTRIBUTE` in an answer of any contender; None where there is none."""
    try:
        value = json.loads(answer)
        if isinstance(value, dict) and "outputs" in value:  # Open Inference Protocol: JSON inside a string tensor
            value = json.loads(value["outputs"][0]["data"][0])
        if isinstance(value, dict) and "results" in value:
            value = value["results"][0]
        if isinstance(value, list):
            value = value[0]
        label = value["attributes"][ATTRIBUTE]["label"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return label if isinstance(label, str) else None


# --- This service ---


def _service_variables(around: Surroundings, tuning: Tuning, port: int) -> Mapping[str, str]:
    values = {"PORT": str(port), "MODELS_DIR": str(around.models_dir), "RUNTIME": "litert"}
    if tuning.get("workers"):
        values["WORKERS"] = str(tuning["workers"])
    return {f"ITEMLENS_{name}": value for name, value in values.items()}


SERVICE_CONTENDER: Contender = Contender(
    SERVICE,
    command=lambda around, tuning, port: [sys.executable, "-m", "app"],
    variables=_service_variables,
    requests=lambda drawn, tuning: samples.service_json(drawn),
    ready_path="/health/ready",
    # As shipped: nothing is tuned.
    sweep=[{}],
)

# --- Peers ---

PLAIN_CONTENDER: Contender = Contender(
    PLAIN,
    command=lambda around, tuning, port: [
        *(sys.executable, "-m", "uvicorn", "scripts.benchmark.peers.plain_fastapi:app", "--port", str(port)),
        *("--workers", str(tuning["workers"]), "--no-access-log", "--log-level", "warning"),
    ],
    variables=lambda around, tuning, port: {"TF_CPP_MIN_LOG_LEVEL": "2"},
    requests=lambda drawn, tuning: samples.item_json(drawn, "/classify"),
    ready_path="/health",
    sweep=[{"workers": 1}, {"workers": 2}],
)

LITSERVE: Contender = Contender(
    "litserve",
    packages=["litserve>=0.2.19"],
    command=lambda around, tuning, port: [
        *(LITSERVE.python(around), "-m", "scripts.benchmark.peers.litserve_server", str(port), json.dumps(tuning))
    ],
    requests=lambda drawn, tuning: samples.item_json(drawn, "/predict"),
    ready_path="/health",
    # Without batching every item pays a queue hop of its own; a timeout of 0 would take one item at a time under light load.
    sweep=[
        {"workers": 2, "api_servers": 1, "fast_queue": True, "batch_items": 16, "batch_timeout_s": 0.002},
        {"workers": 2, "api_servers": 1, "fast_queue": True, "batch_items": 1, "batch_timeout_s": 0.0},
        {"workers": 2, "api_servers": 2, "fast_queue": True, "batch_items": 16, "batch_timeout_s": 0.002},
        {"workers": 2, "api_servers": 1, "fast_queue": False, "batch_items": 16, "batch_timeout_s": 0.002},
        {"workers": 1, "api_servers": 1, "fast_queue": True, "batch_items": 32, "batch_timeout_s": 0.005},
        {"workers": 2, "api_servers": 2, "fast_queue": True, "batch_items": 32, "batch_timeout_s": 0.01},
    ],
)

BENTOML: Contender = Contender(
    "bentoml",
    packages=["bentoml>=1.4.40"],
    command=lambda around, tuning, port: [
        *(BENTOML.python(around), "-m", "bentoml", "serve", "scripts.benchmark.peers.bentoml_service:Classifier"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ],
    variables=lambda around, tuning, port: {
        "BENCHMARK_TUNING": json.dumps(tuning),
        "BENTOML_HOME": str(around.out / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
    },
    requests=lambda drawn, tuning: (
        samples.item_list_json(drawn, "/classify_batch") if tuning["batched"] else samples.item_json(drawn, "/classify")
    ),
    ready_path="/readyz",
    # Its dispatcher answers 503 once it foresees more than `batch_latency_ms`; the default of 60 s never does.
    sweep=[
        {"workers": 2, "batched": True, "batch_items": 16, "batch_latency_ms": 60_000},
        {"workers": 2, "batched": False, "batch_items": 1, "batch_latency_ms": 60_000},
        {"workers": 2, "batched": True, "batch_items": 64, "batch_latency_ms": 60_000},
        {"workers": 1, "batched": True, "batch_items": 32, "batch_latency_ms": 60_000},
        {"workers": 2, "batched": True, "batch_items": 16, "batch_latency_ms": 500},
    ],
)

RAY: Contender = Contender(
    "ray",
    packages=["ray[serve]>=2.60"],
    command=lambda around, tuning, port: [
        *(RAY.python(around), "-m", "scripts.benchmark.peers.ray_server", str(port), json.dumps(tuning))
    ],
    variables=lambda around, tuning, port: {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1" if tuning["throughput_optimized"] else "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    },
    requests=lambda drawn, tuning: samples.item_json(drawn, "/classify"),
    ready_path="/classify",
    sweep=[
        {"replicas": 2, "throughput_optimized": True, "batch_items": 16, "batch_timeout_s": 0.002},
        {"replicas": 2, "throughput_optimized": True, "batch_items": 1, "batch_timeout_s": 0.0},
        {"replicas": 1, "throughput_optimized": True, "batch_items": 32, "batch_timeout_s": 0.005},
        {"replicas": 2, "throughput_optimized": False, "batch_items": 16, "batch_timeout_s": 0.01},
    ],
    start_timeout_s=240.0,
)


def _mlserver_command(around: Surroundings, tuning: Tuning, port: int) -> Sequence[str]:
    """Writes its two settings files and names their folder."""
    folder = around.out / "mlserver"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": tuning["workers"],
        "debug": False,
        "gzip_enabled": False,
        "environments_dir": str(folder / "envs"),
        "metrics_dir": str(folder / "metrics"),
    }
    model = {
        "name": "products",
        "implementation": "scripts.benchmark.peers.mlserver_runtime.ClassifyModel",
        "max_batch_size": tuning["batch_items"],
        "max_batch_time": tuning["batch_timeout_s"],
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [MLSERVER.python(around), "-c", "from mlserver.cli import main; main()", "start", str(folder)]


MLSERVER: Contender = Contender(
    "mlserver",
    # Its workers ask for a current event loop, which newer versions of uvloop refuse to make up.
    packages=["mlserver>=1.7.1", "uvloop<0.22"],
    command=_mlserver_command,
    requests=lambda drawn, tuning: samples.open_inference_json(drawn, "products"),
    ready_path="/v2/models/products/ready",
    sweep=[
        {"workers": 2, "batch_items": 16, "batch_timeout_s": 0.002},
        {"workers": 0, "batch_items": 16, "batch_timeout_s": 0.002},
        {"workers": 2, "batch_items": 0, "batch_timeout_s": 0.0},
        {"workers": 2, "batch_items": 32, "batch_timeout_s": 0.01},
        {"workers": 1, "batch_items": 32, "batch_timeout_s": 0.005},
    ],
)

PEERS = (LITSERVE, BENTOML, RAY, MLSERVER)
CONTENDERS: Mapping[str, Contender] = {contender.name: contender for contender in (SERVICE_CONTENDER, PLAIN_CONTENDER, *PEERS)}
