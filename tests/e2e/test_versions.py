"""Versions come and go in a running service with several workers, and no client notices more than the number.

The slow ones print their figures: `pytest tests/e2e/test_versions.py -m slow -s`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.damage import DAMAGE
from tests.e2e.load import Load
from tests.e2e.service import START_TIMEOUT_S, Service, start_process
from tests.e2e.test_workers import children
from tests.tiny_bundle import seal

WAIT_S = 60.0


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """A models folder of one's own with `tiny/1`."""
    shutil.copytree(tiny_models / "tiny", tmp_path / "models" / "tiny")
    return tmp_path / "models"


@pytest.fixture
def service(models: Path) -> Iterator[Service]:
    """Two workers that look at the folder when they are told to."""
    with Service(models, WORKERS="2", MODELS_POLL_S="0") as running:
        yield running


def ship(models: Path, version: int, *, good: bool = True) -> Path:
    """A version that appears whole, as the exporter makes one; a bad one has a damaged file."""
    staging = models / "tiny" / f".{version}"
    shutil.copytree(sorted((models / "tiny").glob("[0-9]*"))[0], staging)
    seal(staging, version=version)
    if not good:
        (staging / "model.tflite").write_bytes(b"damaged")
    return staging.rename(models / "tiny" / str(version))


def states(service: Service) -> dict[str, str]:
    return {v["version"]: v["state"] for v in service.client.get("/v1/models/tiny").json()["versions"]}


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.02)


def look(service: Service) -> None:
    service.process.send_signal(signal.SIGUSR1)


def kill(service: Service, worker: int) -> tuple[float, float]:
    """Returns when it was killed, and when it was surely gone."""
    began_s = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    until(lambda: worker not in children(service.process.pid))
    return began_s, time.monotonic()


def is_ready(service: Service) -> bool:
    return service.client.get("/health/ready").status_code == 200


def test_all_workers_switch_at_once_and_no_request_fails(service: Service, models: Path) -> None:
    with Load(service.port) as load:
        load.wait_for(20)
        ship(models, 2)
        look(service)
        until(lambda: load.newest == 2)
        ship(models, 3, good=False)
        look(service)
        until(lambda: states(service).get("3") == "refused")
        assert is_ready(service)
        # A replacement comes up on what the others serve.
        killed_s = kill(service, min(children(service.process.pid)))
        load.wait_for(100)
        ship(models, 4)
        look(service)
        until(lambda: load.newest == 4)
        load.wait_for(20)
    assert [failure for failure in load.failures if not failure.lies_in(killed_s)] == []
    assert load.backwards == 0, "no version came back after a newer one"
    assert set(load.versions) == {"1", "2", "4"}
    assert {v["version"] for v in service.client.get("/v1/models/tiny").json()["versions"]} >= {"4", "2", "3"}
    refusals = [event for event in service.events() if event["event"] == "model_version_refused"]
    assert [(event["version"], event["reason"]) for event in refusals] == [
        ("3", "tiny/3: model.tflite does not have the size in manifest.json; copy the bundle again")
    ]


def test_the_folder_is_watched_without_being_told(models: Path) -> None:
    with Service(models, WORKERS="2", MODELS_POLL_S="0.2") as service:
        newest = ship(models, 2)
        until(lambda: states(service) == {"2": "ready", "1": "ready"})
        newest.rename(newest.with_name(".2"))
        until(lambda: states(service) == {"1": "ready"})
        assert service.post("/v1/classify", {"items": [{"text": "shirt"}]}).json()["model"]["version"] == "1"
        assert service.post("/v1/classify", {"items": [{"text": "shirt"}], "version": "2"}).status_code == 404


def say(figures: str) -> None:
    """For whoever runs with `-s`."""
    sys.stdout.write(f"\n{figures}\n")


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.slow
def test_fifty_reloads_under_load_fail_nobody(service: Service, models: Path) -> None:
    reloads = 50
    with Load(service.port) as load:
        load.wait_for(500)
        quiet_ms = load.p99_ms()
        began = load.answered
        for version in range(2, 2 + reloads):
            good = version % 2 == 0
            ship(models, version, good=good)
            look(service)
            state = "ready" if good else "refused"
            until(lambda version=version, state=state: states(service).get(str(version)) == state)  # type: ignore[misc]
            assert is_ready(service)
            if good:
                until(lambda version=version: load.newest == version)  # type: ignore[misc]
        busy_ms = load.p99_ms(began)
    say(
        f"{reloads} reloads, every other one bad: {load.answered} requests answered, {len(load.failures)} failed, "
        f"{load.backwards} by an older version than was seen before; {len(load.versions)} versions answered; "
        f"p99 {quiet_ms:.0f} ms before, {busy_ms:.0f} ms during the reloads"
    )
    assert load.failures == []
    assert load.backwards == 0
    assert len(load.versions) == 1 + reloads // 2


@pytest.mark.slow
def test_what_a_version_took_is_given_back(models: Path) -> None:
    with Service(models, WORKERS="1", MODELS_POLL_S="0", MAX_VERSIONS_PER_MODEL="1") as service:
        pid = service.process.pid
        measured: list[float] = []
        for version in range(2, 22):
            shutil.rmtree(models / "tiny" / str(version - 2), ignore_errors=True)
            ship(models, version)
            look(service)
            until(lambda version=version: states(service) == {str(version): "ready"})  # type: ignore[misc]
            measured.append(resident_mb(pid))
        say(f"resident memory after 20 reloads: {', '.join(f'{mb:.0f}' for mb in measured)} MB")
        assert max(measured[10:]) - max(measured[:10]) < 8


@pytest.mark.slow
def test_twenty_killed_workers_cost_only_what_they_had_in_hand(service: Service) -> None:
    kills = 20
    back_s: list[float] = []
    killed_s: list[tuple[float, float]] = []
    with Load(service.port) as load:
        for _ in range(kills):
            load.wait_for(100)
            before = children(service.process.pid)
            assert len(before) == 2
            killed_s.append(kill(service, min(before)))  # the older one, so that the two take turns
            until(lambda before=before: len(children(service.process.pid) - before) == 1)  # type: ignore[misc]
            # The kernel spreads these over both sockets; those of the dead worker wait for its replacement.
            assert [httpx.get(f"{service.url}/health/ready", trust_env=False, timeout=30).status_code for _ in range(12)] == [
                200
            ] * 12
            back_s.append(time.monotonic() - killed_s[-1][0])
            # Each worker lives for more than ten seconds: one that dies younger is held back.
            time.sleep(5.5)
    others = [failure for failure in load.failures if not any(failure.lies_in(times_s) for times_s in killed_s)]
    say(
        f"{kills} workers killed under load: {load.answered} requests answered, {len(load.failures)} failed in the killed "
        f"workers' hands, {len(others)} others; both workers answer again after {max(back_s):.1f} s at most"
    )
    assert others == []
    assert max(back_s) < 30, "the promise is 5 s and the time to load; a machine that trains meanwhile loads slowly"


@pytest.mark.slow
def test_twenty_rolling_restarts_fail_nobody(service: Service) -> None:
    restarts = 20
    with Load(service.port) as load:
        for restart in range(restarts):
            load.wait_for(50)
            before = children(service.process.pid)
            service.process.send_signal(signal.SIGHUP)

            def replaced(restart: int = restart, before: set[int] = before) -> bool:
                events = [event for event in service.events() if event["event"] == "worker_replaced"]
                return len(events) == 2 * (restart + 1) and not children(service.process.pid) & before

            until(replaced)
    say(f"{restarts} rolling restarts under load: {load.answered} requests answered, {len(load.failures)} failed")
    assert load.failures == []


@pytest.mark.slow
def test_a_switch_during_a_rolling_restart_fails_nobody(service: Service, models: Path) -> None:
    with Load(service.port) as load:
        for version in range(2, 8):
            load.wait_for(50)
            service.process.send_signal(signal.SIGHUP)
            ship(models, version)
            look(service)
            until(lambda version=version: load.newest == version)  # type: ignore[misc]
            until(
                lambda version=version: (  # type: ignore[misc]
                    len([e for e in service.events() if e["event"] == "worker_replaced"]) == 2 * (version - 1)
                )
            )
    say(
        f"6 switches during rolling restarts: {load.answered} requests answered, {len(load.failures)} failed, "
        f"{load.backwards} by an older version than was seen before"
    )
    assert load.failures == []
    assert load.backwards == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_whose_only_version_is_damaged_does_not_start(models: Path, workers: str) -> None:
    good = models / "tiny" / "1"
    for name, damage in DAMAGE.items():
        spare = shutil.copytree(good, models / ".spare")
        damage(good)
        with start_process(models, {"WORKERS": workers, "RUNTIME": "auto"}) as process:
            output, error = process.communicate(timeout=START_TIMEOUT_S)
        lines = [line for line in error.splitlines() if line.startswith("no version of model tiny passes: tiny/1: ")]
        say(f"{workers} workers, {name}: exit {process.returncode}, {lines}")
        assert process.returncode == 1
        assert len(lines) == 1
        assert "Traceback" not in error
        assert '"event": "listening"' not in output
        shutil.rmtree(models / "tiny")
        good.parent.mkdir()
        spare.rename(good)


@pytest.mark.slow
def test_damaged_versions_beside_a_good_one_are_refused_one_and_all(service: Service, models: Path) -> None:
    numbers = range(2, 2 + len(DAMAGE))
    for number, damage in zip(numbers, DAMAGE.values(), strict=True):
        folder = ship(models, number)
        damage(folder)
    with Load(service.port) as load:
        look(service)
        until(lambda: [states(service).get(str(number)) for number in numbers] == ["refused"] * len(DAMAGE))
        assert is_ready(service)
        load.wait_for(20)
    reasons = {v["version"]: v.get("reason") for v in service.client.get("/v1/models/tiny").json()["versions"]}
    assert all(reasons[str(number)] for number in numbers)
    refusals = [event for event in service.events() if event["event"] == "model_version_refused"]
    say(
        f"{len(DAMAGE)} damaged versions: {len(refusals)} lines; {load.answered} requests answered, {len(load.failures)} failed"
    )
    assert len(refusals) == len(DAMAGE)
    assert load.failures == []
    assert set(load.versions) == {"1"}
