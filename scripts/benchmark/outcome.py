"""What a run is to do, and everything that it found.

Owns `Plan` and `Outcome`. Refuses to know how either is come by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.benchmark.contenders import Tuning
from scripts.benchmark.figures import Extras, Point


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    contenders: Sequence[str]
    seconds: float
    rounds: int
    sweep_seconds: float
    concurrencies: Sequence[int] = (1, 8, 32, 64)
    tunes: bool = True
    open_loop_seconds: float = 10.0
    starts: int = 5
    requests_per_worker: int = 10_000
    growth_rounds: int = 2


@dataclass
class Outcome:
    """Everything that a run found."""

    points: list[Point] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    chosen: dict[str, Tuning] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Contender by reason."""
    labels: dict[str, str | None] = field(default_factory=dict)
    """What each said of the first sample."""
    expected_label: str = ""
    memory_mib: dict[str, float] = field(default_factory=dict)
    """MiB of all processes of a contender after the rounds, shared pages counted once (PSS)."""
    extras: Extras = field(default_factory=Extras)
    cores: int = 1

    def leave_out(self, name: str, reason: str, say: Callable[[str], None]) -> None:
        self.left_out[name] = reason
        say(f"{name}: left out: {reason}")
