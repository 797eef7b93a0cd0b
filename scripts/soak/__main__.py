"""Run the service for long under ordinary and hostile traffic, and say whether it holds what it promises.

    python -m scripts.soak --minutes 10                                # for a change
    python -m scripts.soak --minutes 420 --rate 40 --json soak.json    # for a release: seven hours, a million requests
    python -m scripts.soak --minutes 60 --models /srv/models --workers 2 --hostile 0.5

Starts `python -m app` on a free port with the models in --models and sends --rate requests a second at random moments: photos
and titles as forms, JSON, batches and NDJSON; one in five is hostile (damaged photos, bodies and HTTP, clients that hang up,
send or read slowly, bodies that are too large). All of it is drawn by code from --seed. Every --sample seconds it looks at each
worker's memory, open files and threads and at the temporary files. At the end it sends 100 requests that are refused, six
times.

Promised: no 5xx, no ended worker, no error in the log; memory grows by at most 1 % an hour and 20 MiB over the second half; at
rest there are no more files, threads and temporary files than after the warm-up, but for what the first large photo starts;
100 rejected requests add at most 1 MiB to a worker, by the median of the last five hundreds. The slope comes with its 95 %
interval: the shorter the run, the wider. A rate that the machine cannot answer breaks the first promise with 503. Linux alone.

exit codes: 0 all of it holds · 1 something does not · 2 nothing was measured · 130 interrupted, with what was seen until then
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.argument_types import number_between, whole_number_between
from scripts.benchmark.server import Server, ServerError, end_as_interrupted, free_port
from scripts.soak.clients import Account, Clients
from scripts.soak.sampling import Sample, look
from scripts.soak.traffic import Traffic
from scripts.soak.verdict import Evidence, document, findings, table

_HOLDS, _BROKEN, _NOT_MEASURED, _INTERRUPTED = 0, 1, 2, 130
_ROOT = Path(__file__).resolve().parents[2]
_WARM_UP_REQUESTS = 400
_REST_S = 12.0
"""Longer than slow clients are kept, so that nothing of theirs is left."""
_REJECTED = 100
_REJECTED_HUNDREDS = 5
"""That count, after one that does not."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if not Path("/proc/self/fd").exists():
        print("soak: memory and open files are read from Linux' /proc, which is not here", file=sys.stderr)
        return _NOT_MEASURED
    if not list(arguments.models.glob("*/*/manifest.json")):
        print(f"soak: there is no bundle <name>/<version> in {arguments.models}; name a folder of models", file=sys.stderr)
        return _NOT_MEASURED
    end_as_interrupted()
    evidence = Evidence(arguments.minutes)
    exit_code = None
    with tempfile.TemporaryDirectory(prefix="itemlens-soak-") as folder:
        temporary, log = Path(folder) / "tmp", Path(folder) / "service.log"
        temporary.mkdir()
        server = _start(arguments, temporary, log)
        try:
            server.wait_until_ready("/health/ready", timeout_s=120.0)
            asyncio.run(_soak(arguments, evidence, server, temporary))
        except (ServerError, OSError) as error:
            said = log.read_text("utf-8", "replace").strip().splitlines()[-5:] if log.exists() else []
            print("\n".join([f"soak: {error}", *said]), file=sys.stderr)
            exit_code = _NOT_MEASURED
        except KeyboardInterrupt:
            print("soak: interrupted", file=sys.stderr)
            exit_code = _INTERRUPTED
        finally:
            server.stop()
        evidence.logged_errors = _errors_in(log)
        if arguments.log is not None and log.exists():
            shutil.copyfile(log, arguments.log)
    if exit_code == _NOT_MEASURED:
        return exit_code
    rows = findings(evidence)
    print(table(rows))
    if arguments.json is not None:
        options = {name: str(value) for name, value in vars(arguments).items() if name not in ("json", "log", "models")}
        arguments.json.write_text(json.dumps(document(evidence, rows, options), indent=1) + "\n", encoding="utf-8")
    return exit_code or (_BROKEN if any(row.holds is False for row in rows) else _HOLDS)


async def _soak(arguments: argparse.Namespace, evidence: Evidence, server: Server, temporary: Path) -> None:
    """Warm up, rest, load, rest, reject."""
    began_s = time.monotonic()
    traffic = Traffic(hostile_share=arguments.hostile, seed=arguments.seed)
    clients = Clients(server.port, seed=arguments.seed)

    def seen() -> Sample:
        if server.process.poll() is not None:
            raise ServerError(f"the service ended with exit code {server.process.returncode}")
        return look(server.pid, temporary, time.monotonic() - began_s)

    async def at_rest() -> Sample:
        clients.close()
        await asyncio.sleep(_REST_S)
        return seen()

    await clients.run(traffic.next, rate_per_s=arguments.rate, seconds=_WARM_UP_REQUESTS / arguments.rate)
    evidence.at_rest.append(await at_rest())
    evidence.account = clients.account = Account()
    began_s = time.monotonic()
    loading = asyncio.create_task(clients.run(traffic.next, rate_per_s=arguments.rate, seconds=60 * arguments.minutes))
    with tqdm(total=round(60 * arguments.minutes), desc="soak", unit="s", file=sys.stderr, mininterval=1.0) as bar:
        while not loading.done():
            await asyncio.wait([loading], timeout=arguments.sample)
            evidence.samples.append(seen())
            bar.update(min(bar.total, round(time.monotonic() - began_s)) - bar.n)
            bar.set_postfix_str(
                f"{clients.account.requests:,} requests, {clients.account.server_errors} 5xx, "
                f"{evidence.samples[-1].resident_mib:.0f} MiB"
            )
    await loading
    evidence.at_rest.append(await at_rest())
    await _reject(evidence, clients, traffic, seen)


async def _reject(evidence: Evidence, clients: Clients, traffic: Traffic, seen: Callable[[], Sample]) -> None:
    # What is lost at every refusal is lost in every hundred. A worker's first large body after a rest takes back memory that
    # was returned to the system: once for each, in whichever hundred that body comes.
    looks = [seen()]
    for _ in range(1 + _REJECTED_HUNDREDS):
        for shot in traffic.rejected(_REJECTED):
            await clients.fire(shot)
        looks.append(seen())
    evidence.rejected = _REJECTED
    by_worker = [{worker.pid: worker.resident_mib for worker in sample.workers} for sample in looks[1:]]
    lived = set.intersection(*(set(held) for held in by_worker))
    evidence.rejected_mib = [[after[pid] - before[pid] for before, after in pairwise(by_worker)] for pid in sorted(lived)]


def _start(arguments: argparse.Namespace, temporary: Path, log: Path) -> Server:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ITEMLENS_")}
    environment |= {
        "TMPDIR": str(temporary),
        "ITEMLENS_PORT": str(port),
        "ITEMLENS_MODELS_DIR": str(arguments.models.resolve()),
        "ITEMLENS_WORKERS": str(arguments.workers),
        "ITEMLENS_LOG_LEVEL": "warning",
        "ITEMLENS_LOG_FORMAT": "json",
    }
    return Server("service", [sys.executable, "-m", "app"], environment, port=port, log=log, cwd=_ROOT)


def _errors_in(log: Path) -> Counter[str]:
    """Log events of a fault by name, and tracebacks that are no event."""
    found: Counter[str] = Counter()
    for line in log.read_text("utf-8", "replace").splitlines() if log.exists() else []:
        try:
            event: Any = json.loads(line)
            if event["level"] in ("error", "critical"):
                found[str(event["event"]).splitlines()[0][:60]] += 1
        except (ValueError, TypeError, KeyError):
            # A runtime says what it does in its own way.
            found["traceback"] += line.startswith("Traceback")
    return +found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=number_between(0.1, 100_000.0), default=10.0, help="of load (default: 10)")
    parser.add_argument("--rate", type=number_between(0.1, 10_000.0), default=40.0, help="requests a second (default: 40)")
    parser.add_argument(
        "--hostile", type=number_between(0.0, 1.0), default=0.2, help="share of hostile requests (default: 0.2)"
    )
    parser.add_argument(
        "--workers",
        type=whole_number_between(0, 256),
        default=0,
        help="0: as many as the service chooses (default)",
    )
    parser.add_argument("--models", type=Path, default=_ROOT / "models", help="folder of models (default: the shipped ones)")
    parser.add_argument("--sample", type=number_between(0.2, 600.0), default=5.0, help="seconds between two looks (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="of what is sent, and when (default: 1)")
    parser.add_argument("--json", type=Path, help="write the findings and every sample to this file")
    parser.add_argument("--log", type=Path, help="keep the service's log (warnings and errors) in this file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
