"""What a run is to do, and everything that it found.

Owns `Plan`, `Outcome` and the file in which an outcome is kept while it grows, so that a run can go on where it was cut off.
Refuses to know how either is come by.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from scripts.benchmark.contenders import Tuning
from scripts.benchmark.figures import Extras, Point

Section = Literal["tune", "start", "rounds", "open-loop", "memory", "growth"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    contenders: Sequence[str]
    sections: Sequence[Section]
    seconds: float
    rounds: int
    sweep_seconds: float
    concurrencies: Sequence[int] = (1, 8, 32, 64)
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
    rounds: int = 0
    """That are done."""
    finished: list[str] = field(default_factory=list)
    """Sections that are."""

    def leave_out(self, name: str, reason: str, say: Callable[[str], None]) -> None:
        self.left_out[name] = reason
        say(f"{name}: left out: {reason}")

    def save(self, path: Path, *, run: dict[str, Any]) -> None:
        """`run`: what an outcome must have in common with one that goes on with it."""
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps({"run": run, "outcome": asdict(self)}) + "\n", encoding="utf-8")
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: Path, *, run: dict[str, Any]) -> Outcome:
        """Raises ValueError, which says why, when there is none or it is of another run. Who was left out is tried again."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"there is no run to go on with: {path} is missing") from None
        differing = [name for name, value in run.items() if document["run"].get(name) != value]
        if differing:
            raise ValueError(f"{path} is of a run with other {' and '.join(differing)}; leave out --resume")
        values = document["outcome"]
        values["points"] = [Point(**point) for point in values["points"]]
        values["extras"] = Extras(**values["extras"])
        values["left_out"] = {}
        return cls(**values)
