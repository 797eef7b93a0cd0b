"""From an outcome to what stays of a run: tables, JSON and chart; and their way into the documentation.

Owns the names of the files. Refuses to know how anything was measured and how a table is drawn.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark import report
from scripts.benchmark.contenders import PEERS, PLAIN, SERVICE
from scripts.benchmark.figures import Figure, Points, judged_figures
from scripts.benchmark.outcome import Outcome

JSON, CHART, TABLES = "benchmark.json", "benchmark.png", "benchmark.md"


def write_results(outcome: Outcome, out: Path, *, options: dict[str, Any], say: Callable[[str], None]) -> str:
    """Writes the three files and returns the tables."""
    points = Points(outcome.points)
    figures = figures_of(outcome)
    sections = {
        "Goals": report.figure_table(figures),
        "Servers": report.contender_table(outcome, points),
        "The service": report.service_table(outcome, points),
        "How the cost grows": report.growth_table(points),
        "Tunings tried": report.sweep_table(outcome),
        "Notes": report.left_out_lines(outcome),
    }
    text = "\n\n".join(f"## {title}\n\n{section}" for title, section in sections.items() if section)
    (out / TABLES).write_text(f"# Benchmark\n\nPrinted by `{options['command']}`.\n\n{text}\n", encoding="utf-8")
    report.write_json(outcome, figures, out / JSON, options=options)
    try:
        report.draw_chart(outcome, points, out / CHART)
    except ImportError:
        say("matplotlib is not installed, so there is no chart")
    return text


def figures_of(outcome: Outcome) -> Sequence[Figure]:
    """The numbers with goals."""
    peers = [peer.name for peer in PEERS if peer.name in outcome.chosen]
    return judged_figures(
        Points(outcome.points), outcome.extras, service=SERVICE, plain=PLAIN, peers=peers, cores=outcome.cores
    )


def publish(out: Path, docs: Path) -> list[Path]:
    """Copy a run's files to `docs`, from where `python -m scripts.render_readme` takes the README's table. Returns the copies.

    Raises FileNotFoundError where there is no run.
    """
    return [Path(shutil.copyfile(out / name, docs / name)) for name in (JSON, TABLES, CHART)]
