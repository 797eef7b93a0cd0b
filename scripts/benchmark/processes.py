"""What a server's processes used: CPU seconds and memory, read from Linux' /proc; and having them stand still.

Owns finding a process with all that it started. Refuses to know what they do.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One line of /proc/PID/stat. `cpu_s` is user and system time, that of its ended and awaited children included."""

    pid: int
    parent: int
    session: int
    cpu_s: float
    started_ticks: int


def parse_stat(line: str, ticks_per_s: int = _TICKS_PER_S) -> ProcessStat:
    """Fields as in proc(5). The command's name may hold spaces and brackets, so fields count from its last bracket."""
    pid, rest = line.split(" (", 1)
    fields = rest[rest.rindex(")") + 2 :].split()
    used = sum(int(ticks) for ticks in fields[11:15])
    return ProcessStat(int(pid), int(fields[1]), int(fields[3]), used / ticks_per_s, int(fields[19]))


def running_processes() -> dict[int, ProcessStat]:
    """Everybody on this machine by number, without those that have ended and were not collected yet."""
    everybody = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "stat").read_text()
            except OSError:
                continue  # it has just ended
            if line[line.rindex(")") + 2] not in "ZX":
                stat = parse_stat(line)
                everybody[stat.pid] = stat
    return everybody


def process_tree(root: int) -> list[ProcessStat]:
    """The process, its descendants, and whoever shares its session (it leads one of its own). Empty when all are gone."""
    everybody = running_processes()
    ours = {pid for pid, stat in everybody.items() if pid == root or stat.session == root}
    found = -1
    while found != len(ours):
        found = len(ours)
        ours |= {pid for pid, stat in everybody.items() if stat.parent in ours}
    return [everybody[pid] for pid in sorted(ours)]


def cpu_seconds(root: int) -> float:
    """User and system seconds that the whole tree has used since it started; never falls while nobody leaves it orphaned."""
    return sum(stat.cpu_s for stat in process_tree(root))


@contextmanager
def paused(roots: Sequence[int]) -> Iterator[None]:
    """Have these processes and all that they started stand still. Servers that rest still poll, and empty caches."""
    pids = [stat.pid for root in roots for stat in process_tree(root)]
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: Sequence[int], what: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


def resident_mib(pid: int) -> float:
    """MiB of memory in use by one process, pages that it shares included. 0 when it is gone."""
    return _memory_mib(pid, "status", "VmRSS:")


def proportional_mib(pid: int) -> float:
    """As `resident_mib`, with each shared page divided by its users (PSS), so that a sum over processes counts it once."""
    return _memory_mib(pid, "smaps_rollup", "Pss:")


def _memory_mib(pid: int, file: str, field: str) -> float:
    try:
        for line in (_PROC / str(pid) / file).read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / MIB
    except OSError:
        pass
    return 0.0
