from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.benchmark import report
from scripts.benchmark.figures import CEILING, Extras, Figure, Point, Points, Spread, judged_figures
from scripts.benchmark.outcome import Outcome


def _point(
    contender: str,
    kind: str = "json",
    *,
    number: int = 0,
    concurrency: int = 64,
    rate: float,
    cpu_ms: float,
    beside: str = "",
    **more: float,
) -> Point:
    latencies = {"p50_ms": 10.0, "p90_ms": 20.0, "p99_ms": 30.0} | more
    items = int(rate * 4)
    return Point(
        contender=contender,
        kind=kind,
        round=number,
        concurrency=concurrency,
        seconds=4.0,
        items=items,
        requests=items,
        failures=0,
        server_cpu_s=items * cpu_ms / 1000,
        beside=beside,
        **latencies,
    )


POINTS = [
    # The second round finds the machine half as fast; its ratios are the same.
    *(
        point
        for number, pace in enumerate((1.0, 0.5, 1.0))
        for point in (
            _point(CEILING, "batch", number=number, concurrency=0, rate=1500 * pace, cpu_ms=1.25, beside="itemlens"),
            # Measured when the machine was slow, around somebody else.
            _point(CEILING, "batch", number=number, concurrency=0, rate=1000 * pace, cpu_ms=1.75, beside="fast peer"),
            _point(CEILING, "batch", number=number, concurrency=0, rate=1000 * pace, cpu_ms=1.75, beside="slow peer"),
            _point(CEILING, "single", number=number, concurrency=0, rate=700, cpu_ms=1.4, p50_ms=1.5, beside="itemlens"),
            _point("itemlens", number=number, concurrency=1, rate=300 * pace, cpu_ms=2.0, p50_ms=2.3),
            _point("itemlens", number=number, concurrency=64, rate=1200 * pace, cpu_ms=1.45),
            _point("itemlens", "batch64", number=number, concurrency=8, rate=1440 * pace, cpu_ms=1.3),
            _point("itemlens", "stream64", number=number, concurrency=8, rate=1260 * pace, cpu_ms=1.4),
            _point("itemlens", "open-0.8", number=number, concurrency=0, rate=900, cpu_ms=1.5, p50_ms=5.0, p99_ms=15.0),
            _point("plain", number=number, concurrency=8, rate=400 * pace, cpu_ms=4.0),
            _point("plain", number=number, concurrency=64, rate=300 * pace, cpu_ms=5.0),
            _point("fast peer", number=number, concurrency=64, rate=800 * pace, cpu_ms=2.75),
            _point("slow peer", number=number, concurrency=64, rate=300 * pace, cpu_ms=6.0),
        )
    )
]


def _figures(points: list[Point], extras: Extras | None = None) -> list[Figure]:
    peers = ["slow peer", "fast peer"]
    return judged_figures(Points(points), extras or Extras(), service="itemlens", plain="plain", peers=peers, cores=2)


def test_figures_are_medians_of_ratios_within_a_round() -> None:
    figures = _figures(POINTS, Extras(start_s=[1.4, 1.2, 1.3], worker_mib=[200.0], requests_before_memory=20_000))
    medians = [figure.value.median if figure.value else None for figure in figures]
    assert medians == [
        pytest.approx(0.20),  # 1.45 - 1.25
        pytest.approx(0.20),  # over 2.75 - 1.75
        pytest.approx(1.25 / 1.45),
        pytest.approx(1200 / 1500),
        pytest.approx(1200 / 400),  # plain is best at 8
        pytest.approx(2.3 - 1.5),
        pytest.approx(3.0),
        pytest.approx(1.3),
        pytest.approx(200.0),
        pytest.approx(1.2),
        pytest.approx(1.05),
    ]
    assert [figure.is_reached for figure in figures] == [True, True, True, False, False, True, True, True, True, True, True]
    assert "fast peer" in figures[1].note


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    figures = _figures([point for point in POINTS if point.contender == CEILING])
    assert {figure.is_reached for figure in figures} == {None}
    assert all(figure.value is None for figure in figures)


def test_a_contender_without_an_answer_gives_no_number() -> None:
    silent = _point("itemlens", rate=0, cpu_ms=0)
    points = Points([silent, POINTS[0]])
    assert points.overhead_ms("itemlens", 64) is None
    assert points.best_concurrency("itemlens") is None


def test_a_spread_has_the_rounds_ends_and_leaves_nan_out() -> None:
    assert Spread.of([3.0, 1.0, float("nan"), 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([float("nan")]) is None


def test_the_report_shows_every_figure_and_can_be_read_by_programs(tmp_path: Path) -> None:
    unanswered = _point("itemlens", "multipart", rate=0, cpu_ms=0, p50_ms=float("nan"))
    outcome = Outcome(points=[*POINTS, unanswered], chosen={"itemlens": {}, "plain": {}}, cores=2, expected_label="Shoes")
    outcome.left_out["slow peer"] = "cannot be installed: no such package"
    outcome.labels = {"itemlens": "Shoes", "plain": "Hats"}
    outcome.sweeps = [{"contender": "plain", "tuning": {"workers": 2}, "error": "ended"}]
    figures = _figures(outcome.points)
    points = Points(outcome.points)
    text = report.figure_table(figures)
    assert all(figure.name in text for figure in figures)
    assert "not measured" in text
    servers = report.contender_table(outcome, points)
    assert "1,200" in servers
    assert "1.45" in servers
    assert "open-0.8" in report.service_table(outcome, points)
    assert "ended" in report.sweep_table(outcome)
    assert "no such package" in report.left_out_lines(outcome)
    assert "plain says 'Hats'" in report.left_out_lines(outcome)
    report.write_json(outcome, figures, tmp_path / "benchmark.json", options={})
    document = json.loads((tmp_path / "benchmark.json").read_text(), parse_constant=pytest.fail)
    assert len(document["figures"]) == len(figures)
    report.draw_chart(outcome, points, tmp_path / "benchmark.png")
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
