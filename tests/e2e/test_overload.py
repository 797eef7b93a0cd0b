"""More than the service can answer: it answers as much as ever, as soon as ever, and says to the rest when to come again.

The heavy one takes six minutes on a machine with nothing else to do, `OVERLOAD_STEP_S=10` makes it two, to see that it works;
`OVERLOAD_SLICES=3` measures the capacity more often, where a core changes its speed from minute to minute:

    pytest -s -m slow tests/e2e/test_overload.py
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from scripts.benchmark.load import closed_loop
from scripts.benchmark.processes import cpu_seconds
from scripts.benchmark.samples import draw_samples, service_multipart
from scripts.benchmark.server import free_port
from tests.api.listening import is_whole
from tests.e2e.open_loop import Step, measure
from tests.e2e.service import ROOT, Service
from tests.tiny_bundle import jpeg

STEP_S = float(os.environ.get("OVERLOAD_STEP_S", "60"))
SERVER_CORE, CLIENT_CORE = 0, 1
SHARES = (0.8, 1.0, 2.0, 10.0)
SLICES = int(os.environ.get("OVERLOAD_SLICES", "1"))
"""Of a step, with the capacity measured between them. Each begins with a quarter of a second in which overload is not noticed
yet and the queue fills: in a minute of three that is more than the hundredth that waits longest."""
BARE = """
import sys, uvicorn
async def app(scope, receive, send):
    head = [(b"content-type", b"application/json"), (b"content-length", b"2"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"{}"})
options = {"log_config": None, "access_log": False, "lifespan": "off", "http": "httptools", "loop": "uvloop", "ws": "none"}
uvicorn.run(app, port=int(sys.argv[1]), **options)
"""
"""An answer of the same server without a service, to a body that it does not read either."""
FORM = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n%s\r\n--x--\r\n'


@pytest.fixture(scope="module")
def narrow_service(tiny_models: Path) -> Iterator[Service]:
    """Holds four requests at a time."""
    with Service(tiny_models, WORKERS="1", MAX_QUEUE_ITEMS="4", DECODE_THREADS="1") as running:
        yield running


def test_a_flood_is_answered_or_told_when_to_come_again(narrow_service: Service) -> None:
    """Two hundred connections, and a request on each before the first answer is read; twice."""
    body = FORM % jpeg(3, height=800, width=600)
    head = (
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
    )
    statuses: Counter[int] = Counter()
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(narrow_service.connect())) for _ in range(200)]
        for _ in range(2):
            for connection in connections:
                connection.sendall(head % len(body) + body)
            for connection in connections:
                received = read_answer(connection)
                status = int(received[9:12])
                statuses[status] += 1
                assert status == 200 or re.search(rb"\r\nretry-after: [1-9]", received), received[:300]
    assert set(statuses) == {200, 503}
    assert narrow_service.client.get("/health/ready").status_code == 200
    assert narrow_service.client.post("/v1/classify", files={"image": jpeg(3)}).status_code == 200


def read_answer(connection: socket.socket) -> bytes:
    received = b""
    while not is_whole(received):
        data = connection.recv(65536)
        assert data, f"closed after {received[:300]!r}"
        received += data
    return received


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started in here runs on that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def pinned_service() -> Iterator[Service]:
    """What the repository ships, with the settings that it ships with, on one core; this process keeps off it."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs a core for the service and one for its clients")
    before = os.sched_getaffinity(0)
    with on_core(SERVER_CORE):
        service = Service(ROOT / "models", RUNTIME="auto")
    for thread in threading.enumerate():
        os.sched_setaffinity(thread.native_id or 0, {CLIENT_CORE})
    try:
        with service:
            yield service
    finally:
        os.sched_setaffinity(0, before)


def price_of_a_bare_answer_s() -> float:
    """CPU seconds of one answer of `BARE` to the same requests."""
    port = free_port()
    with on_core(SERVER_CORE):
        process = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    try:
        give_up_s = time.monotonic() + 30
        while time.monotonic() < give_up_s:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        before_s = cpu_seconds(process.pid)
        step = Step(**measure(CLIENT_CORE, port=port, rate=1500.0, seconds=min(10.0, STEP_S)))
        assert not step.failed
        return (cpu_seconds(process.pid) - before_s) / step.accepted
    finally:
        process.terminate()
        process.wait()


def described(share: float, step: Step) -> str:
    refused = ", ".join(f"{count:,} x {status}" for status, count in sorted(step.refused.items())) or "none"
    return (
        f"{share:4g}x: goodput {step.goodput_per_s:.1f}/s = {step.goodput_per_s / step.capacity_per_s:.1%} of the "
        f"{step.capacity_per_s:.1f}/s measured around its slices; accepted "
        f"{step.accepted:,}, p50 {step.accepted_p50_ms:.1f}, p99 {step.accepted_p99_ms:.1f} ms; refused {refused}, p50 "
        f"{step.refused_p50_ms:.1f}, p99 {step.refused_p99_ms:.1f} ms, {step.without_retry_after} without Retry-After; failed "
        f"{step.failed or 0}; {step.connections} connections; generator late by {step.late_ms:.1f} ms (p99)"
    )


@pytest.mark.slow
def test_overload_costs_neither_goodput_nor_latency(pinned_service: Service) -> None:
    price_s = price_of_a_bare_answer_s()
    port, capacity_s = pinned_service.port, min(5.0, STEP_S / 4)
    clients = int(measure(CLIENT_CORE, port=port, seconds=capacity_s)["clients"])
    load = os.getloadavg()[0]
    print(f"\na bare answer costs {price_s * 1e6:.0f} us; {clients} waiting clients get most; load average {load:.1f}")  # noqa: T201
    steps: dict[float, Step] = {}
    prices: dict[float, float] = {}
    plan = {
        "port": port,
        "pid": pinned_service.process.pid,
        "clients": clients,
        "slices": SLICES,
        "seconds": STEP_S,
        "capacity_s": capacity_s,
    }
    for share in SHARES:
        step = steps[share] = Step(**measure(CLIENT_CORE, share=share, **plan))
        prices[share] = (step.cpu_s - step.accepted / step.capacity_per_s) / max(1, sum(step.refused.values()))
        print(described(share, step))  # noqa: T201
    calm, twice, tenfold = steps[0.8], steps[2.0], steps[10.0]
    left = max(0.0, 1 - tenfold.refused_per_s * price_s)
    print(  # noqa: T201
        f"a refusal costs {prices[10.0] * 1e6:.0f} us at 10x; bare answers to as many would leave {left:.1%} of capacity, of "
        f"which {tenfold.goodput_per_s / (left * tenfold.capacity_per_s):.1%} were reached; p99 of accepted at 2x is "
        f"{twice.accepted_p99_ms / calm.accepted_p99_ms:.2f} times that at 0.8x"
    )
    assert max(step.late_ms for step in steps.values()) < 20, "the generator was held up: measure on a machine at rest"
    for share, step in steps.items():
        assert not step.failed, share
        assert step.without_retry_after == 0, share
    assert calm.refused == {}
    assert twice.goodput_per_s >= 0.95 * twice.capacity_per_s
    assert twice.accepted_p99_ms <= 2 * calm.accepted_p99_ms
    assert tenfold.goodput_per_s >= 0.9 * left * tenfold.capacity_per_s
    assert max(twice.refused_p99_ms, tenfold.refused_p99_ms) <= 50


@pytest.mark.slow
def test_clients_that_ask_again_at_once_leave_half_of_the_core_to_answers(pinned_service: Service) -> None:
    """More than the queue has places; they take no notice of Retry-After, and keep their connections."""
    port, seconds = pinned_service.port, min(20.0, STEP_S)
    photos = service_multipart(draw_samples(32))
    before = closed_loop(port, photos, concurrency=32, seconds=min(5.0, seconds))
    storm = closed_loop(port, photos, concurrency=600, seconds=seconds, ramp_s=3.0)
    time.sleep(2.0)
    after = closed_loop(port, photos, concurrency=32, seconds=min(5.0, seconds))
    capacity_per_s = (before.items_per_s + after.items_per_s) / 2
    print(  # noqa: T201
        f"\n600 impatient clients: {storm.items_per_s:.1f} answers/s = {storm.items_per_s / capacity_per_s:.1%} of the "
        f"{capacity_per_s:.1f}/s before and after, beside {storm.failures / seconds:,.0f} refusals/s"
    )
    assert before.failures == after.failures == 0
    assert storm.failures > storm.items, "they were never refused"
    assert storm.items_per_s >= 0.45 * capacity_per_s
