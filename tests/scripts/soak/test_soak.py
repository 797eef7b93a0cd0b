"""What a soak sends, measures and concludes; and that the command runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from scripts.benchmark.processes import process_tree
from scripts.benchmark.samples import draw_samples
from scripts.soak.__main__ import _errors_in, main
from scripts.soak.clients import Account, Clients
from scripts.soak.sampling import Held, Sample, look, slope
from scripts.soak.traffic import Shot, Traffic
from scripts.soak.verdict import Evidence, Finding, findings, table
from tests.e2e.service import ROOT

HOUR_S = 3600.0


@pytest.fixture(autouse=True)
def small_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick to draw."""
    monkeypatch.setattr("scripts.soak.traffic.draw_samples", partial(draw_samples, size=(60, 80)))


@pytest.fixture
def traffic() -> Traffic:
    return Traffic(hostile_share=0.2, seed=1)


def test_one_request_in_five_is_hostile_and_all_kinds_come(traffic: Traffic) -> None:
    shots = [traffic.next() for _ in range(3000)]
    assert 0.17 < sum(shot.is_hostile for shot in shots) / 3000 < 0.23
    ordinary = {shot.kind for shot in shots if not shot.is_hostile}
    hostile = {shot.kind for shot in shots if shot.is_hostile}
    assert ordinary == {"form", "json", "titles", "embed", "batch", "lines", "asks for leave", "models"}
    assert hostile == {
        "bad photo", "bad body", "bad HTTP", "leaver", "wrong request", "slow sender", "slow reader", "too large"
    }  # fmt: skip
    assert all(shot.wire for shot in shots)


def test_the_same_seed_sends_the_same(traffic: Traffic) -> None:
    again = Traffic(hostile_share=0.2, seed=1)
    assert [traffic.next() for _ in range(50)] == [again.next() for _ in range(50)]


def test_a_line_through_memory_has_its_slope_and_an_interval_that_holds_it() -> None:
    chance = np.random.default_rng(3)
    at_s = np.arange(0, HOUR_S, 5)
    line = slope(list(at_s), list(200 + 3 * at_s / HOUR_S + chance.normal(0, 0.3, len(at_s))))
    assert line is not None
    assert line.grown_mib == pytest.approx(3, abs=0.3)
    assert abs(line.percent_per_hour - 1.5) < max(line.half_width, 0.05)
    assert slope([0.0, 1.0], [1.0, 1.0]) is None


def test_a_process_is_looked_at_with_its_files_and_threads(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "left").touch()
    before = look(os.getpid(), tmp_path, 0.0)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with (tmp_path / "open").open("wb"):
        after = look(os.getpid(), tmp_path, 1.0)
    done.set()
    thread.join()
    assert before.temporary_files == 1
    assert after.temporary_files == 2
    assert after.workers[0].open_files == before.workers[0].open_files + 1
    assert after.workers[0].threads == before.workers[0].threads + 1
    assert after.resident_mib > 10


def evidence(*, mib_per_hour: float = 0.0, minutes: float = 60.0) -> Evidence:
    def held(at_s: float, files: int = 40) -> Sample:
        return Sample(at_s, (Held(7, 200 + mib_per_hour * at_s / HOUR_S, files, 6, 9),), 3)

    at_s = np.linspace(0, 60 * minutes, 200)
    return Evidence(
        minutes,
        samples=[held(float(at)) for at in at_s],
        at_rest=[held(0), held(0)],
        rejected=100,
        rejected_mib=[[0.1, 0.0, 3.2, 0.0, 0.1]],
    )


def broken(rows: list[Finding]) -> list[str]:
    return [row.what for row in rows if row.holds is False]


def test_a_calm_soak_holds() -> None:
    rows = findings(evidence())
    assert broken(rows) == []
    assert "BROKEN" not in table(rows)


def test_what_is_broken_is_named() -> None:
    assert broken(findings(evidence(mib_per_hour=50))) == [
        "memory of worker 1, second half", "memory of worker 1, second half, gained"
    ]  # fmt: skip
    assert broken(findings(evidence(mib_per_hour=50, minutes=10))) == []  # too short to say
    leaking = evidence()
    leaking.at_rest[1] = Sample(0, (Held(7, 200, 41, 9, 12),), 4)
    leaking.rejected_mib = [[0.0] * 5, [1.5, 1.4, 1.5, 0.2, 1.6]]
    leaking.logged_errors = Counter({"unhandled_error": 1})
    assert [what.split(" at rest")[0] for what in broken(findings(leaking))] == [
        "errors in the log", "open files", "threads", "temporary files", "pipes", "memory gained by 100 rejected requests"
    ]  # fmt: skip
    replaced = evidence()
    replaced.at_rest[1] = Sample(0, (Held(8, 200, 40, 6, 9),), 3)
    assert "workers that ended" in broken(findings(replaced))


def test_memory_that_only_seems_to_grow_is_not_judged() -> None:
    noisy = evidence(mib_per_hour=4)
    noisy.samples = [
        replace(sample, workers=(replace(sample.workers[0], resident_mib=sample.resident_mib + 20 * (index // 13 % 2)),))
        for index, sample in enumerate(noisy.samples)
    ]
    rows = {row.what: row for row in findings(noisy)}
    line = noisy.slopes()[0]
    assert line is not None
    assert line.half_width > 1
    assert rows["memory of worker 1, second half"].holds is not False


def test_answers_are_accounted_for_by_whether_their_sender_meant_well() -> None:
    account = Account()
    good, bad = Shot("form", b"x"), Shot("bad photo", b"x", is_hostile=True)
    for shot, what in ((good, "200"), (good, "422"), (bad, "422"), (bad, "closed"), (bad, "500"), (bad, "unanswered")):
        account.count(shot, what, 1.0)
    assert (account.requests, account.hostile, account.server_errors) == (6, 4, 1)
    assert dict(account.failures) == {"form: 422": 1, "bad photo: 500": 1, "bad photo: unanswered": 1}
    rows = {row.what: row for row in findings(Evidence(1.0, account=account))}
    assert rows["5xx other than 503"].holds is False


def test_clients_of_every_manner_come_to_an_end() -> None:
    """Against a server that asks for the body, answers every head and then goes deaf."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(65536)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def soak() -> Account:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        clients = Clients(port, seed=1)
        shots = [
            Shot("form", b"POST"),
            Shot("bad body", b"POST", is_hostile=True),
            Shot("leaver", b"POST", "hangs up", is_hostile=True),
            Shot("slow sender", b"POST", "dribbles", is_hostile=True),
            Shot("too large", b"POST", repeats=50, tail=b" " * 100_000, is_hostile=True),
        ]
        async with asyncio.timeout(10):
            for shot in shots:
                await clients.fire(shot)
        clients.close()
        server.close()
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > 1:  # the server's ends of the connections
                await asyncio.sleep(0.01)
        return clients.account

    account = asyncio.run(soak())
    assert dict(account.statuses) == {"413": 4, "left": 1}
    assert dict(account.failures) == {"form: 413": 1}


def test_an_error_in_the_log_is_found_by_name(tmp_path: Path) -> None:
    log = tmp_path / "log"
    events = [{"event": "request", "level": "info"}, {"event": "unhandled_error", "level": "error"}]
    log.write_text("\n".join([*map(json.dumps, events), "INFO: a runtime's own", "Traceback (most recent call last):"]) + "\n")
    assert _errors_in(log) == {"unhandled_error": 1, "traceback": 1}
    assert not _errors_in(tmp_path / "none")


def test_a_folder_without_models_is_said_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", str(tmp_path)]) == 2
    assert "no bundle" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--hostile", "2"], ["--rate", "x"]])
def test_values_that_are_not_allowed_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)
    assert refusal.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_soak_of_the_shipped_models(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.soak", "--minutes", "0.5", "--rate", "20", "--sample", "1"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "soak.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(done.stdout)  # noqa: T201
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    document = json.loads((tmp_path / "soak.json").read_text())
    assert document["samples"]
    assert all(row["holds"] is not False for row in document["findings"])


@pytest.mark.slow
def test_a_soak_that_is_told_to_end_leaves_no_service_behind() -> None:
    soak = subprocess.Popen([sys.executable, "-m", "scripts.soak"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    give_up_at_s = time.monotonic() + 60
    while len(started := [stat for stat in process_tree(soak.pid) if stat.pid != soak.pid]) < 2:
        assert time.monotonic() < give_up_at_s
        time.sleep(0.05)
    soak.send_signal(signal.SIGTERM)
    soak.communicate(timeout=60)
    assert soak.returncode == 130
    assert not [stat for stat in started if Path(f"/proc/{stat.pid}").exists()]
