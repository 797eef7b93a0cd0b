"""What a soak has shown, as a table and as JSON, and whether the service kept its promises.

Owns the promises' numbers. Refuses to know how anything was measured.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.benchmark.load import percentile
from scripts.soak.clients import Account
from scripts.soak.sampling import Sample, Slope, slope

MOST_PERCENT_PER_HOUR = 1.0
MOST_GROWN_MIB = 20.0
MOST_GROWN_BY_REJECTED_MIB = 1.0
LEAST_MINUTES_FOR_A_SLOPE = 30.0
"""A shorter run's slope is noise times a large factor: it is printed and not judged."""


@dataclass
class Evidence:
    """`at_rest`: looks without a connection, after the warm-up and after the load. `rejected_mib`: what each hundred of
    requests that were all refused added, by worker."""

    minutes: float
    samples: list[Sample] = field(default_factory=list)
    at_rest: list[Sample] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    rejected: int = 0
    rejected_mib: list[list[float]] = field(default_factory=list)
    logged_errors: Counter[str] = field(default_factory=Counter)

    def second_half(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.at_s >= self.samples[-1].at_s / 2] if self.samples else []

    def slopes(self) -> list[Slope | None]:
        """Of each worker that lived through the second half."""
        half = self.second_half()
        pids = set.intersection(*(set(sample.pids) for sample in half)) if half else set()
        by_worker = [[worker for sample in half for worker in sample.workers if worker.pid == pid] for pid in sorted(pids)]
        at_s = [sample.at_s for sample in half]
        return [slope(at_s, [worker.resident_mib for worker in held]) for held in by_worker]

    def deaths(self) -> int:
        """Workers that were there once and are not in the last look."""
        seen = {pid for sample in (*self.samples, *self.at_rest) for pid in sample.pids}
        return len(seen - set(self.at_rest[-1].pids)) if self.at_rest else 0


@dataclass(frozen=True)
class Finding:
    """One row of the table. `holds`: None where it is said and not judged."""

    what: str
    found: str
    promised: str = ""
    holds: bool | None = None


def findings(evidence: Evidence) -> list[Finding]:
    account = evidence.account
    refused = account.statuses["503"]
    found = [
        Finding("requests (of them hostile)", f"{account.requests:,} ({account.hostile:,})"),
        Finding("answers by status", ", ".join(f"{status}: {count:,}" for status, count in sorted(account.statuses.items()))),
        Finding("latency of ordinary requests, p50 / p99", _latencies(account.latencies_ms)),
        Finding("5xx other than 503", f"{account.server_errors - refused:,}", "0", account.server_errors == refused),
        Finding("503, where the rate is more than the machine answers", f"{refused:,}", "0", refused == 0),
        Finding("failures of all kinds", _listed(account.failures), "0", not account.failures),
        Finding("errors in the log", _listed(evidence.logged_errors), "0", not evidence.logged_errors),
        Finding("workers that ended", f"{evidence.deaths()}", "0", evidence.deaths() == 0),
    ]
    for number, line in enumerate(evidence.slopes(), 1):
        found += _memory(number, line, is_judged=evidence.minutes >= LEAST_MINUTES_FOR_A_SLOPE)
    if len(evidence.at_rest) == 2:
        before, after = evidence.at_rest
        for what, (count, lazy) in _COUNTS.items():
            first, last, allowed = count(before), count(after), count(before) + lazy * len(after.workers)
            found.append(
                Finding(f"{what} at rest, before and after", f"{first} / {last}", f"at most {allowed}", last <= allowed)
            )
    if evidence.rejected_mib:
        most = max(statistics.median(gained) for gained in evidence.rejected_mib)
        found.append(
            Finding(
                f"memory gained by {evidence.rejected} rejected requests",
                f"{most:.2f} MiB, {max(map(sum, evidence.rejected_mib)):.2f} by {len(evidence.rejected_mib[0])} times as many",
                f"at most {MOST_GROWN_BY_REJECTED_MIB:g} MiB",
                most <= MOST_GROWN_BY_REJECTED_MIB,
            )
        )
    return found


_COUNTS: Mapping[str, tuple[Callable[[Sample], int], int]] = {
    "open files": (lambda sample: sum(worker.open_files for worker in sample.workers), 0),
    "threads": (lambda sample: sum(worker.threads for worker in sample.workers), 2),
    "temporary files": (lambda sample: sample.temporary_files, 0),
    "pipes": (lambda sample: sum(worker.pipes for worker in sample.workers), 2),
}
"""How each is counted, and how many more a worker may have: its first photo that takes longer starts a thread, its first large
one another and a process with two pipes."""


def _memory(number: int, line: Slope | None, *, is_judged: bool) -> list[Finding]:
    name = f"memory of worker {number}, second half"
    if line is None:
        return [Finding(name, "too few samples for a line")]
    rate = f"{line.percent_per_hour:+.2f} %/h (95 %: ± {line.half_width:.2f})"
    gained = f"{line.grown_mib:+.1f} MiB"
    if not is_judged:
        return [Finding(name, f"{rate}, {gained}", "judged from 30 minutes on")]
    # Where the limit lies within the interval, this soak was too short to tell.
    holds = True if line.percent_per_hour <= MOST_PERCENT_PER_HOUR else None
    if line.percent_per_hour - line.half_width > MOST_PERCENT_PER_HOUR:
        holds = False
    promised = f"at most {MOST_PERCENT_PER_HOUR:g} %/h" + (": too short a soak to tell" if holds is None else "")
    return [
        Finding(name, rate, promised, holds),
        Finding(f"{name}, gained", gained, f"at most {MOST_GROWN_MIB:g} MiB", line.grown_mib <= MOST_GROWN_MIB),
    ]


def table(rows: Sequence[Finding]) -> str:
    """As Markdown."""
    marks = {True: "holds", False: "BROKEN", None: ""}
    lines = ["| | found | promised | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.what} | {row.found} | {row.promised} | {marks[row.holds]} |" for row in rows)])


def document(evidence: Evidence, rows: Sequence[Finding], options: Mapping[str, Any]) -> dict[str, Any]:
    """For `--json`: the findings, and each sample to look closer at."""
    return {
        "options": dict(options),
        "findings": [asdict(row) for row in rows],
        "samples": [asdict(sample) for sample in evidence.samples],
        "at_rest": [asdict(sample) for sample in evidence.at_rest],
    }


def _latencies(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.1f} / {percentile(values, 0.99):.1f} ms" if values else "none"


def _listed(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} × {what}" for what, count in sorted(failures.items())) or "0"
