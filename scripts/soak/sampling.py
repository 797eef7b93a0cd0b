"""What the service's processes hold while it runs: memory, open files, threads, temporary files.

Owns reading them from Linux' /proc and the line through the memory's samples. Refuses to know what is sent meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.benchmark.processes import process_tree, resident_mib

_BLOCKS = 10
_T_95 = 2.306
"""Two-sided 95 % point of Student's t with `_BLOCKS` - 2 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one worker holds. Pipes are counted by themselves: two lead to the process that decodes large photos, which comes
    and goes, and stay for a while when it has gone."""

    pid: int
    resident_mib: float
    open_files: int
    pipes: int
    threads: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the service, `at_s` seconds after the soak began."""

    at_s: float
    workers: tuple[Held, ...]
    temporary_files: int

    @property
    def resident_mib(self) -> float:
        """Of all workers together."""
        return sum(worker.resident_mib for worker in self.workers)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(worker.pid for worker in self.workers)


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through the memory of one worker: per cent of its mean an hour with the half-width of its 95 %
    interval, and MiB gained from end to end of the line."""

    percent_per_hour: float
    half_width: float
    grown_mib: float


def look(root: int, temporary: Path, at_s: float) -> Sample:
    """`root`: the service's first process, which serves itself where it has no other."""
    tree = process_tree(root)
    # A worker is forked within the service's session; what decodes photos has one of its own.
    workers = [stat.pid for stat in tree if stat.parent == root and stat.session == root] or [root]
    files = sum(1 for path in temporary.rglob("*") if not path.is_dir())
    return Sample(at_s, tuple(held for pid in workers if (held := _held(pid))), files)


def _held(pid: int) -> Held | None:
    try:
        targets = [_target(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return None  # it has just ended
    pipes = sum(target.startswith("pipe:") for target in targets)
    return Held(pid, resident_mib(pid), len(targets) - pipes, pipes, threads)


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""  # closed meanwhile


def slope(at_s: Sequence[float], mib: Sequence[float]) -> Slope | None:
    """Least squares through the means of ten blocks: neighbouring samples say nearly the same, so an interval from the samples
    themselves would be far too narrow. None for fewer than two samples a block."""
    if len(at_s) < 2 * _BLOCKS:
        return None
    hours = np.array([block.mean() for block in np.array_split(np.asarray(at_s, np.float64) / 3600, _BLOCKS)])
    means = np.array([block.mean() for block in np.array_split(np.asarray(mib, np.float64), _BLOCKS)])
    gain, level = np.polyfit(hours, means, 1)
    left = means - (gain * hours + level)
    spread = float(((hours - hours.mean()) ** 2).sum())
    error = math.sqrt(float((left**2).sum()) / (_BLOCKS - 2) / spread)
    percent = 100 / float(means.mean())
    return Slope(float(gain) * percent, _T_95 * error * percent, float(gain) * (at_s[-1] - at_s[0]) / 3600)
