"""A contender made ready: its environment, and the tuning that is fastest on this machine.

Owns starting one for a while and trying its tunings alone, one after the other. Refuses to know rounds and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from scripts.benchmark.connection import ConnectionLostError
from scripts.benchmark.contenders import Contender, Surroundings, Tuning
from scripts.benchmark.environments import InstallError, ensure_environment, installed_version
from scripts.benchmark.load import closed_loop, percentile
from scripts.benchmark.outcome import Outcome, Plan
from scripts.benchmark.samples import Sample
from scripts.benchmark.server import Server, ServerError

FAULTS = (ServerError, ConnectionLostError, OSError, TimeoutError)
"""What a contender may do to us."""
WARM_UP_S = 2.0


@contextmanager
def started(contender: Contender, around: Surroundings, tuning: Tuning, *, label: str = "") -> Iterator[tuple[Server, float]]:
    """A server that is ready, and the seconds it took; stopped at the end. Raises ServerError."""
    server = contender.start(around, tuning, label=label)
    try:
        yield server, server.wait_until_ready(contender.ready_path, timeout_s=contender.start_timeout_s)
    finally:
        server.stop()


def prepare(
    contender: Contender,
    around: Surroundings,
    plan: Plan,
    drawn: Sequence[Sample],
    outcome: Outcome,
    say: Callable[[str], None],
) -> None:
    """Install and tune it, unless `outcome` has its tuning; `outcome` gets its version and tuning, or why it is left out."""
    if contender.packages:
        say(f"{contender.name}: preparing its environment")
        try:
            ensure_environment(contender, around.out)
        except InstallError as error:
            outcome.leave_out(contender.name, f"cannot be installed: {error}", say)
            return
        outcome.versions[contender.name] = installed_version(contender, around.out)
    tunings = contender.sweep if "tune" in plan.sections else contender.sweep[:1]
    if contender.name in outcome.chosen:
        return
    if len(tunings) == 1:
        outcome.chosen[contender.name] = tunings[0]
        return
    # A run that was cut off may have tried some of them.
    outcome.sweeps = [entry for entry in outcome.sweeps if entry["contender"] != contender.name]
    best_rate = 0.0
    reason = "every tuning had failed requests"
    for number, tuning in enumerate(tunings):
        entry: dict[str, Any] = {"contender": contender.name, "tuning": dict(tuning)}
        outcome.sweeps.append(entry)
        try:
            with started(contender, around, tuning, label=f"tuning{number}") as (server, _):
                requests = contender.requests(drawn, tuning)
                # TensorFlow prepares itself during its first calls, and does so many times over when they come together.
                closed_loop(server.port, requests, concurrency=1, seconds=WARM_UP_S, ramp_s=0.0)
                load = closed_loop(
                    server.port, requests, concurrency=max(plan.concurrencies), seconds=plan.sweep_seconds, ramp_s=1.0
                )
        except FAULTS as error:
            entry["error"] = reason = str(error) or type(error).__name__
            say(f"{contender.name} {in_words(tuning)}: {reason}")
            continue
        entry |= {"items_per_s": load.items_per_s, "failures": load.failures, "p99_ms": percentile(load.latencies_ms, 0.99)}
        say(f"{contender.name} {in_words(tuning)}: {load.items_per_s:.0f} items/s, {load.failures} failures")
        if load.items_per_s > best_rate and load.failures == 0:
            best_rate = load.items_per_s
            outcome.chosen[contender.name] = tuning
    if contender.name not in outcome.chosen:
        outcome.leave_out(contender.name, reason, say)


def in_words(tuning: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in tuning.items())
