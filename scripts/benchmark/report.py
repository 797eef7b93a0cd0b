"""What a run found, for people and for programs: tables, `benchmark.json`, `benchmark.png`.

Owns words and layout. Refuses to compute a figure: that is `scripts.benchmark.figures`.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark.contenders import SERVICE
from scripts.benchmark.figures import CEILING, Figure, Point, Points, Spread
from scripts.benchmark.outcome import Outcome


def contender_table(outcome: Outcome, points: Points) -> str:
    """Throughput by concurrency, latency, cost and memory of every contender."""
    concurrencies = sorted({p.concurrency for p in points.all if p.kind == "json" and p.contender in _servers(outcome)})
    head = [
        "server",
        *(f"items/s at {c}" for c in concurrencies),
        "p50 / p99 ms at most",
        "core-ms/item",
        "capacity",
        "overhead",
        "MiB",
        "failed",
    ]
    rows = []
    for kind in ("batch", "single"):
        rate = points.spread(CEILING, kind, None, lambda p: p.items_per_s)
        cost = points.spread(CEILING, kind, None, lambda p: p.cpu_ms_per_item)
        if rate is not None and cost is not None:
            name = "in-process ceiling" if kind == "batch" else "in-process, one core, one item"
            row = [name, *("" for _ in concurrencies), "", _median(cost, 2), "", "", "", ""]
            # It knows no concurrency: its rate stands in the last of those columns.
            row[len(concurrencies)] = _median(rate, 0)
            rows.append(row)
    for name in _servers(outcome):
        at_most = points.concurrencies(name, "json")[-1]
        rates = [points.spread(name, "json", c, lambda p: p.items_per_s) for c in concurrencies]
        half = points.spread(name, "json", at_most, lambda p: p.p50_ms)
        tail = points.spread(name, "json", at_most, lambda p: p.p99_ms)
        cost = points.spread(name, "json", at_most, lambda p: p.cpu_ms_per_item)
        rows.append(
            [
                name,
                *(_median(rate, 0) for rate in rates),
                f"{_median(half, 1)} / {_median(tail, 1)}",
                _median(cost, 2),
                f"{outcome.cores / cost.median * 1000:.0f}" if cost is not None and cost.median > 0 else "",
                _median(points.overhead_ms(name, at_most), 2),
                f"{outcome.memory_mib.get(name, 0):.0f}",
                str(sum(p.failures for p in points.all if p.contender == name)),
            ]
        )
    note = (
        f"By the clock, the generator on the same {outcome.cores} cores; medians of the rounds. core-ms/item, overhead and "
        f"capacity ({outcome.cores} cores / core-ms) count the server's processes alone, at the largest concurrency."
    )
    return f"{table(head, rows)}\n{note}"


def service_table(outcome: Outcome, points: Points) -> str:
    """The service's other ways of being asked."""
    rows = []
    for kind in ("multipart", "batch64", "stream64", "open-0.5", "open-0.8"):
        found = points.of(SERVICE, kind)
        if not found:
            continue
        values = [points.spread(SERVICE, kind, None, value) for value in (_rate, _p50, _p90, _p99, _cost)]
        asked = f"{found[0].rate_per_s:.0f} arrivals/s" if found[0].rate_per_s else f"concurrency {found[0].concurrency}"
        rows.append([kind, asked, *(_median(v, d) for v, d in zip(values, (0, 2, 2, 2, 2), strict=True))])
    return table(["request", "asked", "items/s", "p50 ms", "p90 ms", "p99 ms", "core-ms/item"], rows) if rows else ""


def growth_table(points: Points) -> str:
    """How the cost grows."""
    rows = []
    names = list(
        dict.fromkeys(
            p.contender for p in points.all if p.contender.startswith(("workers-", "batch-")) or _is_size(p.contender)
        )
    )
    for name in names:
        rate, cost = (points.spread(name, "json", None, value) for value in (_rate, _cost))
        rows.append([name, _range(rate, 0), _range(cost, 2)])
    note = (
        "Each on a server of its own, one after the other; in the rounds above all servers are up, and those that rest stand "
        "still, but hold their memory."
    )
    return f"{table(['what', 'items/s (least - most)', 'core-ms/item (least - most)'], rows)}\n{note}" if rows else ""


def sweep_table(outcome: Outcome) -> str:
    """Every tuning that was tried; * is the one that was kept."""
    rows = []
    for entry in outcome.sweeps:
        kept = outcome.chosen.get(entry["contender"]) == entry["tuning"]
        words = ", ".join(f"{name} {value}" for name, value in entry["tuning"].items())
        rate = entry.get("error") or f"{entry['items_per_s']:.0f}"
        rows.append([entry["contender"], ("* " if kept else "  ") + words, rate, str(entry.get("failures", ""))])
    return table(["server", "tuning", "items/s", "failed"], rows) if rows else ""


def figure_table(figures: Sequence[Figure]) -> str:
    """The numbers with goals."""
    rows = []
    for figure in figures:
        sign = "<=" if figure.better == "less" else ">="
        verdict = {True: "reached", False: "not reached", None: "not measured"}[figure.is_reached]
        rows.append(
            [figure.name, f"{sign} {figure.goal:g} {figure.unit}".strip(), _range(figure.value, 2), verdict, figure.note]
        )
    return table(["what", "goal", "measured (least - most)", "", "how"], rows)


def left_out_lines(outcome: Outcome) -> str:
    """Who is missing and why, and who answered otherwise than expected."""
    lines = [f"left out: {name}: {reason}" for name, reason in outcome.left_out.items()]
    for name, label in outcome.labels.items():
        if label != outcome.expected_label:
            lines.append(f"WRONG ANSWER: {name} says {label!r} of the first sample, the engine {outcome.expected_label!r}")
    return "\n".join(lines)


def write_json(outcome: Outcome, figures: Sequence[Figure], path: Path, *, options: dict[str, Any]) -> None:
    """Everything, points included; no NaN, so that every reader can read it."""
    document = {
        "machine": {
            "cores": outcome.cores,
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "options": options,
        "figures": [asdict(figure) | {"is_reached": figure.is_reached} for figure in figures],
        "chosen": {name: dict(tuning) for name, tuning in outcome.chosen.items()},
        "versions": outcome.versions,
        "left_out": outcome.left_out,
        "labels": outcome.labels,
        "memory_mib": outcome.memory_mib,
        "sweeps": outcome.sweeps,
        "points": [asdict(point) for point in outcome.points],
    }
    path.write_text(json.dumps(_without_nan(document), indent=1) + "\n", encoding="utf-8")


def draw_chart(outcome: Outcome, points: Points, path: Path) -> None:
    """Items per second by concurrency, and where each server's core-milliseconds go."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    names = _servers(outcome)
    for name in names:
        known = points.concurrencies(name, "json")
        rates = [points.spread(name, "json", c, _rate) for c in known]
        medians = [rate.median if rate is not None else 0.0 for rate in rates]
        left.plot(known, medians, marker="o", label=name, linewidth=2.5 if name == SERVICE else 1.2)
    ceiling = points.spread(CEILING, "batch", None, _rate)
    if ceiling is not None:
        left.axhline(ceiling.median, color="grey", linestyle="--", label="in-process ceiling")
    left.set(xscale="log", xlabel="requests under way", ylabel="items per second", title="Throughput by the clock")
    left.legend(fontsize=8)
    costs = [points.spread(name, "json", points.concurrencies(name, "json")[-1], _cost) for name in names]
    heights = [cost.median if cost is not None else 0.0 for cost in costs]
    base = points.spread(CEILING, "batch", None, _cost)
    floor = base.median if base is not None else 0.0
    right.barh(names, [min(height, floor) for height in heights], color="lightgrey", label="decode, network, answers")
    right.barh(names, [max(0.0, height - floor) for height in heights], left=floor, color="tab:red", label="serving")
    right.invert_yaxis()
    right.set(xlabel="core-milliseconds per item", title="What an item costs")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in (head, *rows)
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _rate(point: Point) -> float:
    return point.items_per_s


def _p50(point: Point) -> float:
    return point.p50_ms


def _p90(point: Point) -> float:
    return point.p90_ms


def _p99(point: Point) -> float:
    return point.p99_ms


def _cost(point: Point) -> float:
    return point.cpu_ms_per_item


def _servers(outcome: Outcome) -> list[str]:
    """Those that answered, the service first."""
    known = {point.contender for point in outcome.points if point.kind == "json"}
    return [name for name in outcome.chosen if name in known]


def _is_size(name: str) -> bool:
    return name.replace("x", "", 1).isdecimal()


def _median(spread: Spread | None, digits: int) -> str:
    return "–" if spread is None else f"{spread.median:,.{digits}f}"


def _range(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "–"
    if spread.least == spread.most:
        return f"{spread.median:,.{digits}f}"
    return f"{spread.median:,.{digits}f} ({spread.least:,.{digits}f} - {spread.most:,.{digits}f})"


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
