"""Contenders that run in this environment, started for real."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts.benchmark.__main__ import main
from scripts.benchmark.contenders import CONTENDERS, PEERS, PLAIN, Surroundings, label_of
from scripts.benchmark.load import ask_once
from scripts.benchmark.processes import process_tree
from scripts.benchmark.samples import draw_samples, item_json
from scripts.benchmark.server import Server, ServerError, free_port
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "models" / "fashion").glob("*/manifest.json"))


def test_a_server_that_ends_or_never_answers_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    for program, timeout_s in (("import sys; sys.exit(3)", 60.0), ("import time; time.sleep(60)", 0.5)):
        server = Server(
            "idle", [sys.executable, "-c", program], {}, port=free_port(), log=tmp_path / "logs" / "idle.log", cwd=tmp_path
        )
        with pytest.raises(ServerError, match=r"idle\.log"):
            server.wait_until_ready("/", timeout_s=timeout_s)
        server.stop()


def test_stopping_ends_what_the_server_started_too(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = [sys.executable, '-c', 'import signal, time; signal.signal(15, lambda *_: 0); time.sleep(60)']\n"
        "subprocess.Popen(child)\nopen('up', 'w').close()\ntime.sleep(60)\n"
    )
    server = Server("parent", [sys.executable, "-c", program], {}, port=free_port(), log=tmp_path / "log", cwd=tmp_path)
    while len(process_tree(server.pid)) < 2 and server.process.poll() is None:
        pass
    server.stop()
    assert process_tree(server.pid) == []


def test_every_peer_has_an_environment_and_a_tuning() -> None:
    assert [peer.name for peer in PEERS] == ["litserve", "bentoml", "ray", "mlserver"]
    assert all(peer.packages and len(peer.sweep) >= 4 for peer in PEERS)


def test_bad_options_are_refused_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no bundle" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--contenders", "nobody"])
    with pytest.raises(SystemExit):
        main(["--seconds", "0"])


@pytest.mark.slow
def test_plain_fastapi_answers(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "models", name="tiny")
    bundle = next((tmp_path / "models" / "tiny").iterdir())
    contender = CONTENDERS[PLAIN]
    server = contender.start(Surroundings(bundle, tmp_path / "models", tmp_path), contender.sweep[0])
    try:
        server.wait_until_ready(contender.ready_path, timeout_s=contender.start_timeout_s)
        answer = ask_once(server.port, item_json(draw_samples(1), "/classify")[0].wire)
    finally:
        server.stop()
    assert answer.status == 200
    assert label_of(answer.body) in {"Tshirts", "Shirts", "Watches"}
    attributes = json.loads(answer.body)["attributes"]
    assert sum(candidate["confidence"] for candidate in attributes["gender"]["candidates"]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not SHIPPED, reason="no shipped fashion model")
def test_a_quick_run_measures_the_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--seconds", "0.5", "--contenders", "itemlens", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "benchmark.json").read_text())
    measured = [figure["name"] for figure in document["figures"] if figure["value"]]
    assert any(name.startswith("overhead per item") for name in measured)
    assert any(name.startswith("start to ready") for name in measured)
    assert {point["failures"] for point in document["points"]} == {0}
    assert document["labels"] == {"itemlens": "Tshirts"}
    assert (tmp_path / "benchmark.png").exists()
    assert "## Goals" in capsys.readouterr().out
