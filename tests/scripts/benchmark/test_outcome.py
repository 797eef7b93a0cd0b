"""A run that was cut off goes on with what it had found, and only with its own."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest

from scripts.benchmark.__main__ import main
from scripts.benchmark.contenders import ROOT
from scripts.benchmark.figures import Extras, Point
from scripts.benchmark.measuring import Run
from scripts.benchmark.outcome import Outcome, Plan
from scripts.benchmark.results import publish, write_results
from scripts.render_readme import goals_table

RUN = {"bundle": "fashion/2", "seconds": 4.0}


def found() -> Outcome:
    point = Point(
        contender="itemlens",
        kind="json",
        round=0,
        concurrency=64,
        seconds=4.0,
        items=4000,
        requests=4000,
        failures=0,
        p50_ms=60.0,
        p90_ms=70.0,
        p99_ms=90.0,
        server_cpu_s=6.0,
    )
    return Outcome(
        points=[point],
        chosen={"itemlens": {}, "litserve": {"workers": 2}},
        extras=Extras(start_s=[1.1, 1.2], worker_mib=[180.0]),
        cores=2,
        rounds=1,
        finished=["start"],
    )


def test_an_outcome_is_read_back_as_it_was(tmp_path: Path) -> None:
    outcome = found()
    outcome.save(tmp_path / "progress.json", run=RUN)
    assert asdict(Outcome.load(tmp_path / "progress.json", run=RUN)) == asdict(outcome)
    assert list(tmp_path.iterdir()) == [tmp_path / "progress.json"]


def test_who_was_left_out_is_tried_again(tmp_path: Path) -> None:
    outcome = found()
    outcome.leave_out("ray", "it did not start", lambda _: None)
    outcome.save(tmp_path / "progress.json", run=RUN)
    assert Outcome.load(tmp_path / "progress.json", run=RUN).left_out == {}


def test_another_runs_outcome_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run to go on with"):
        Outcome.load(tmp_path / "progress.json", run=RUN)
    found().save(tmp_path / "progress.json", run=RUN)
    with pytest.raises(ValueError, match="other bundle and seconds"):
        Outcome.load(tmp_path / "progress.json", run={"bundle": "fashion/3", "seconds": 1.0})


def test_only_what_is_asked_for_and_not_finished_is_due(tmp_path: Path) -> None:
    plan = Plan(contenders=["itemlens"], sections=("start", "memory"), seconds=4.0, rounds=5, sweep_seconds=4.0)
    run = Run(plan, tmp_path, tmp_path, lambda _: None, outcome=found())
    assert [section for section in ("tune", "start", "rounds", "memory") if run._is_due(section)] == ["memory"]


def test_the_published_table_is_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, docs = tmp_path / "out", tmp_path / "docs"
    out.mkdir()
    docs.mkdir()
    with pytest.raises(FileNotFoundError):
        publish(out, docs)
    models = tmp_path / "models"
    (models / "fashion/2").mkdir(parents=True)
    (models / "fashion/2/manifest.json").write_text("{}")
    assert goals_table(docs / "benchmark.json", models) == ""
    manifest = sha256(b"{}").hexdigest()
    options = {"command": "python -m scripts.benchmark --rounds 1", "bundle": "fashion/2", "manifest": manifest}
    tables = write_results(found(), out, options=options, say=lambda _: None)
    assert "start to ready, one model on LiteRT" in tables
    assert [copy.name for copy in publish(out, docs)] == ["benchmark.json", "benchmark.md", "benchmark.png"]
    table = goals_table(docs / "benchmark.json", models)
    assert "| start to ready, one model on LiteRT | ≤ 1.5 s | 1.15 (1.10 to 1.20) | reached |" in table
    assert "| the same, over the best peer's | ≤ 0.25  | – | not measured |" in table
    assert "`python -m scripts.benchmark --rounds 1` for `fashion/2` on 2 cores" in table
    (models / "fashion/2/manifest.json").write_text('{"version": "2"}')
    assert f"for an earlier `fashion/2` (manifest {manifest[:8]}) on 2 cores" in goals_table(docs / "benchmark.json", models)


def test_there_must_be_a_run_to_publish_or_to_go_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(max((ROOT / "models" / "mnist").iterdir()))
    assert main(["--publish", "--bundle", bundle, "--out", str(tmp_path)]) == 2
    assert "no run to publish" in capsys.readouterr().err
    assert main(["--resume", "--bundle", bundle, "--out", str(tmp_path)]) == 2
    assert "no run to go on with" in capsys.readouterr().err
