"""How fast the service is, against its in-process ceiling, plain FastAPI with TensorFlow, and four model servers.

    python -m scripts.benchmark                                  # everything; about half an hour, more the first time
    python -m scripts.benchmark --quick                          # two minutes: does all of it work?
    python -m scripts.benchmark --contenders itemlens bentoml --rounds 3 --seconds 5
    python -m scripts.benchmark --contenders itemlens --only start memory
    python -m scripts.benchmark --resume                         # go on where a run was cut off
    python -m scripts.benchmark --publish                        # measure nothing; copy the last run's tables to docs
    python -m scripts.benchmark --bundle models/shoes/1 --out runs/shoes-benchmark

All servers answer the same drawn photos and titles, on this machine, beside the load generator. They stay up and take turns
in short rounds, so that a noisy minute meets all of them; those that rest are stopped meanwhile. The ceiling is measured around
each one's turn at the largest concurrency, half before and half after it. Figures are medians over the rounds. A server's cost
is the CPU time of its own processes, so the generator is not counted; throughput by the clock is printed too. Each peer is
installed into an environment of its own below OUT/envs and tuned first. A peer that cannot be installed or started is named.

The sections of a run are tune, start, rounds, open-loop, memory and growth. OUT/progress.json is written after each of them,
and after each round.

Writes OUT/benchmark.json, OUT/benchmark.png, OUT/benchmark.md and OUT/logs. Stop other work on the machine first. Linux alone.

exit codes: 0 measured, whether or not the goals are reached · 1 the service failed or gave wrong answers · 2 nothing was
measured · 130 interrupted
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.argument_types import number_between, whole_number_between
from scripts.benchmark.contenders import CONTENDERS, PLAIN, ROOT, SERVICE
from scripts.benchmark.measuring import Run
from scripts.benchmark.outcome import SECTIONS, Outcome, Plan
from scripts.benchmark.server import ServerError, end_as_interrupted

_MEASURED, _WRONG, _NOT_MEASURED, _INTERRUPTED = 0, 1, 2, 130
_QUICK = (SERVICE, PLAIN)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if not Path("/proc/self/stat").exists():
        print("benchmark: CPU time is read from Linux' /proc, which is not here", file=sys.stderr)
        return _NOT_MEASURED
    bundle = (arguments.bundle or _newest_bundle(ROOT / "models" / "fashion")).resolve()
    if not (bundle / "manifest.json").is_file():
        print(f"benchmark: {bundle} is no bundle: it has no manifest.json; name a folder <name>/<version>", file=sys.stderr)
        return _NOT_MEASURED
    out: Path = arguments.out.resolve()
    if arguments.publish:
        return _publish(out)
    end_as_interrupted()
    plan = _plan(arguments)
    out.mkdir(parents=True, exist_ok=True)
    progress = out / "progress.json"
    common = {
        "bundle": f"{bundle.parent.name}/{bundle.name}",
        "manifest": hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest(),
        "contenders": list(plan.contenders),
        "seconds": plan.seconds,
    }
    started_s = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started_s:6.0f} s] {text}", file=sys.stderr, flush=True)

    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"warning: something else is running (load {load:.1f}); figures will be distorted")
    try:
        known = Outcome.load(progress, run=common) if arguments.resume else None
        outcome = Run(plan, bundle, out, say, outcome=known, save=lambda part: part.save(progress, run=common)).run()
    except (ServerError, RuntimeError, OSError, ValueError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return _NOT_MEASURED
    except KeyboardInterrupt:
        print("benchmark: interrupted; go on with --resume", file=sys.stderr)
        return _INTERRUPTED
    from scripts.benchmark.results import write_results  # after the measurements: it brings drawing libraries

    words = [word for word in (argv if argv is not None else sys.argv[1:]) if word != "--resume"]
    options = {"command": " ".join(["python -m scripts.benchmark", *words]), **common}
    print(write_results(outcome, out, options=options, say=say))
    say(f"written to {arguments.out}")
    failures = sum(point.failures for point in outcome.points if point.contender == SERVICE)
    wrong = outcome.labels.get(SERVICE, outcome.expected_label) != outcome.expected_label
    return _WRONG if failures or wrong or SERVICE in outcome.left_out else _MEASURED


def _publish(out: Path) -> int:
    from scripts.benchmark.results import publish

    try:
        copies = publish(out, ROOT / "docs")
    except FileNotFoundError as error:
        print(f"benchmark: there is no run to publish: {error.filename} is missing", file=sys.stderr)
        return _NOT_MEASURED
    print("\n".join(str(copy.relative_to(ROOT)) for copy in copies))
    print("now run: python -m scripts.render_readme", file=sys.stderr)
    return _MEASURED


def _plan(arguments: argparse.Namespace) -> Plan:
    sections = tuple(arguments.only or SECTIONS)
    if arguments.quick:
        return Plan(
            contenders=arguments.contenders or _QUICK,
            sections=tuple(section for section in sections if section != "tune"),
            seconds=arguments.seconds or 1.5,
            rounds=arguments.rounds or 1,
            sweep_seconds=1.0,
            concurrencies=(1, 64),
            open_loop_seconds=3.0,
            starts=1,
            requests_per_worker=0,
            growth_rounds=1,
        )
    return Plan(
        contenders=arguments.contenders or tuple(CONTENDERS),
        sections=sections,
        seconds=arguments.seconds or 4.0,
        rounds=arguments.rounds or 5,
        sweep_seconds=arguments.seconds or 4.0,
    )


def _newest_bundle(folder: Path) -> Path:
    versions = [entry for entry in folder.glob("*") if entry.name.isdecimal()]
    return max(versions, key=lambda entry: int(entry.name), default=folder / "1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round, without tuning; the service and plain FastAPI")
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), metavar="NAME", help=f"default: all of {', '.join(CONTENDERS)}"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"default: all of {', '.join(SECTIONS)}")
    parser.add_argument("--resume", action="store_true", help="go on with the run that OUT holds, where it was cut off")
    parser.add_argument("--publish", action="store_true", help="measure nothing; copy what OUT holds to docs")
    parser.add_argument("--seconds", type=number_between(0.2, 600.0), help="of one measurement (default: 4)")
    parser.add_argument("--rounds", type=whole_number_between(1, 1000), help="how often all take their turn (default: 5)")
    parser.add_argument("--bundle", type=Path, help="model to serve (default: the newest in models/fashion)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="where to write (default: runs/benchmark)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
