"""Several worker processes behave like one service: one port, one set of metrics, none missed when it dies or is replaced."""

from __future__ import annotations

import hashlib
import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.certificates import make_certificate
from tests.e2e.service import START_TIMEOUT_S, STOP_TIMEOUT_S, Service, free_port, is_running, own_lines, start_process
from tests.tiny_bundle import write_tiny_bundle

TITLE = {"items": [{"text": "Puma Men Grey T-shirt"}]}
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For hundreds of clients that speak plain HTTP: each would read all authorities' certificates first."""


@pytest.fixture(scope="module")
def workers(tiny_models: Path) -> Iterator[Service]:
    """Shared by the tests after which it still serves with two workers."""
    with Service(tiny_models, WORKERS="2") as running:
        yield running


@pytest.fixture
def doomed_workers(tiny_models: Path) -> Iterator[Service]:
    """For the tests that end it."""
    with Service(tiny_models, WORKERS="2") as running:
        yield running


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def classify(url: str, times: int, **headers: str) -> list[int]:
    """Status codes, each request on a connection of its own so that both workers get some."""
    options: dict[str, Any] = {"headers": headers, "trust_env": False, "timeout": 30, "verify": NO_CERTIFICATES}
    return [httpx.post(f"{url}/v1/classify", json=TITLE, **options).status_code for _ in range(times)]


def both_workers(service: Service) -> set[int]:
    """The two, once those that earlier tests ended are gone and replaced: as many connections find both answering."""
    deadline_s = time.monotonic() + 30
    while len(pids := children(service.process.pid)) != 2 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert len(pids) == 2
    assert classify(service.url, 12) == [200] * 12
    return pids


def counted(url: str) -> float:
    text = httpx.get(f"{url}/metrics", trust_env=False, verify=NO_CERTIFICATES).text
    rows = [line for line in text.splitlines() if line.startswith("itemlens_http_requests_total") and "classify" in line]
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows)


def test_sighup_replaces_every_worker_without_a_failed_request(workers: Service) -> None:
    before = both_workers(workers)
    statuses: list[int] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            statuses.extend(classify(workers.url, 1))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        workers.process.send_signal(signal.SIGHUP)
        for pid in before:
            workers.wait_for(lambda event, pid=pid: event["event"] == "worker_replaced" and event["old_pid"] == pid)  # type: ignore[misc]
        deadline_s = time.monotonic() + 30
        while children(workers.process.pid) & before and time.monotonic() < deadline_s:
            time.sleep(0.02)
    finally:
        done.set()
        asking.join()

    assert not children(workers.process.pid) & before
    assert statuses
    assert set(statuses) == {200}


COUNTED_WITHIN_S = 0.4
"""A worker counts what it wrote down 0.2 s later; only the one that is asked for its metrics does so at once."""


def test_metrics_are_the_sum_over_the_workers_and_outlive_them(workers: Service) -> None:
    both_workers(workers)
    time.sleep(COUNTED_WITHIN_S)
    before = counted(workers.url)
    assert classify(workers.url, 20) == [200] * 20
    time.sleep(COUNTED_WITHIN_S)
    assert [counted(workers.url) for _ in range(6)] == [before + 20] * 6  # whichever worker answers

    victim = min(children(workers.process.pid))
    os.kill(victim, signal.SIGKILL)
    workers.wait_for(lambda event: event["event"] == "worker_died" and event["pid"] == victim)

    assert counted(workers.url) == before + 20
    both_workers(workers)  # asks 12 times
    time.sleep(COUNTED_WITHIN_S)
    assert [counted(workers.url) for _ in range(6)] == [before + 32] * 6


def test_workers_keep_nothing_in_the_temporary_folder(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing there can fill up, be tidied away or be left behind."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with Service(tiny_models, WORKERS="2") as running:
        assert counted(running.url) == 0
        assert classify(running.url, 4) == [200] * 4
        assert list(temporary.iterdir()) == []


def test_a_killed_worker_is_replaced_and_no_later_request_fails(workers: Service) -> None:
    before = both_workers(workers)
    for _ in range(3):
        victim = min(children(workers.process.pid))
        os.kill(victim, signal.SIGKILL)
        # New connections to the dead worker's socket wait for its replacement instead of being refused.
        assert classify(workers.url, 12) == [200] * 12
    assert both_workers(workers) != before


def test_a_stop_ends_all_processes_and_the_port_is_free(doomed_workers: Service, tiny_models: Path) -> None:
    pids = children(doomed_workers.process.pid)
    assert classify(doomed_workers.url, 2) == [200, 200]

    assert doomed_workers.stop() == 0

    assert not any(is_running(pid) for pid in pids)
    with Service(tiny_models, WORKERS="2", PORT=str(doomed_workers.port)) as again:
        assert classify(again.url, 2) == [200, 200]


def test_workers_whose_parent_is_killed_stop_too(doomed_workers: Service) -> None:
    pids = children(doomed_workers.process.pid)
    doomed_workers.process.kill()
    deadline_s = time.monotonic() + 30
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)
    doomed_workers.wait_until_stopped()


def cpu_s(pid: int) -> float:
    """Processor time so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def test_workers_that_finish_their_requests_without_a_parent_rest_meanwhile(doomed_workers: Service) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    pids = children(doomed_workers.process.pid)
    with ExitStack() as stack:
        for _ in range(8):  # so that one has some, and most often both
            stack.enter_context(doomed_workers.connect()).sendall(head + b"{")
        time.sleep(0.2)  # until the heads have been read
        doomed_workers.process.kill()
        time.sleep(0.5)  # until they have begun to stop
        before_s = {pid: cpu_s(pid) for pid in pids if is_running(pid)}
        assert before_s
        time.sleep(1)
        assert all(cpu_s(pid) - before < 0.1 for pid, before in before_s.items())
    doomed_workers.wait_until_stopped()


def test_a_broken_bundle_is_one_line_and_a_non_zero_exit_with_workers_too(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path)
    (bundle / "labels.json").write_text("{}")
    with start_process(tmp_path, {"WORKERS": "2"}) as process:
        _, error = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 1
    [said] = own_lines(error)
    assert "labels.json" in said
    assert "Traceback" not in error


def test_a_port_that_another_service_holds_is_refused(workers: Service, tiny_models: Path) -> None:
    with start_process(tiny_models, {"WORKERS": "2", "PORT": str(workers.port)}) as process:
        _, error = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 1
    assert "address already in use" in error


@pytest.mark.parametrize("workers", ["1", "2"])
def test_of_two_services_that_start_at_once_one_has_the_port(tiny_models: Path, workers: str) -> None:
    port = free_port()
    starting = [start_process(tiny_models, {"WORKERS": workers, "PORT": str(port)}) for _ in range(2)]
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while all(process.poll() is None for process in starting) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        [refused] = [process for process in starting if process.poll() is not None]
        _, error = refused.communicate()
        assert refused.returncode == 1
        assert "address already in use" in error
        assert error.count("\n") == 1
    finally:
        for process in starting:
            process.terminate()
            process.communicate(timeout=STOP_TIMEOUT_S)


def test_a_quota_is_exact_over_both_workers_and_survives_their_replacement(tiny_models: Path) -> None:
    digest = hashlib.sha256(b"key").hexdigest()
    headers = {"X-API-Key": "key"}
    with Service(tiny_models, WORKERS="2", API_KEYS_SHA256=digest, MAX_ITEMS_PER_MINUTE_PER_KEY="30") as running:
        began_s = time.monotonic()
        assert classify(running.url, 20, **headers) == [200] * 20
        running.process.send_signal(signal.SIGHUP)
        for slot in (0, 1):
            running.wait_for(lambda event, slot=slot: event["event"] == "worker_replaced" and event["slot"] == slot)  # type: ignore[misc]
        statuses = classify(running.url, 40, **headers)
        earned = (time.monotonic() - began_s) * 30 / 60
        assert set(statuses) == {200, 429}
        assert 10 <= statuses.count(200) <= 10 + earned + 1


def test_a_silent_worker_is_replaced_and_new_requests_are_answered(tiny_models: Path) -> None:
    with Service(tiny_models, WORKERS="2", WORKER_SILENCE_TIMEOUT_S="3") as running:
        victim = min(children(running.process.pid))
        os.kill(victim, signal.SIGSTOP)
        killed = running.wait_for(lambda event: event["event"] == "worker_killed")
        assert killed["pid"] == victim
        assert classify(running.url, 8) == [200] * 8


def test_tls_with_several_workers_takes_a_new_certificate_on_sighup(tiny_models: Path, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    files = {"TLS_CERTIFICATE_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    with Service(tiny_models, WORKERS="2", **files) as running:
        assert running.url.startswith("https://")

        def served() -> set[str]:
            """The certificates of a few connections."""
            return {ssl.get_server_certificate(("127.0.0.1", running.port)) for _ in range(6)}

        old = certificate.read_text()
        assert served() == {old}
        trusting = ssl.create_default_context(cafile=str(certificate))
        assert httpx.post(f"{running.url}/v1/classify", json=TITLE, verify=trusting, trust_env=False).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{running.port}/health/live", trust_env=False)

        certificate.write_text("no certificate")
        running.process.send_signal(signal.SIGHUP)
        refused = running.wait_for(lambda event: event["event"] == "worker_not_replaced")
        assert "ITEMLENS_TLS_CERTIFICATE_FILE" in refused["reason"]
        assert served() == {old}

        make_certificate(tmp_path)
        running.process.send_signal(signal.SIGHUP)
        for slot in (0, 1):
            running.wait_for(lambda event, slot=slot: event["event"] == "worker_replaced" and event["slot"] == slot)  # type: ignore[misc]
        deadline_s = time.monotonic() + 30
        while old in (certificates := served()) and time.monotonic() < deadline_s:
            time.sleep(0.05)  # the last old worker has been asked to stop
        assert certificates == {certificate.read_text()}


def test_a_bad_certificate_is_one_line_at_the_start(tiny_models: Path, tmp_path: Path) -> None:
    with start_process(tiny_models, {"TLS_CERTIFICATE_FILE": str(tmp_path / "none"), "TLS_KEY_FILE": "none"}) as process:
        _, error = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 2
    assert error.startswith("ITEMLENS_TLS_CERTIFICATE_FILE: the file cannot be read")
    assert error.count("\n") == 1
