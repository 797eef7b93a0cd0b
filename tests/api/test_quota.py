"""Quotas: counted in items, exactly, over all workers, before a body is read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from app.main import create_app
from app.quota import SLOTS, QuotaTable
from app.settings import Settings, SettingsError
from tests.api.listening import connected, listening, request
from tests.conftest import FakeEngine, open_client

KEYS = ("first", "second")
DIGESTS = [hashlib.sha256(key.encode()).digest() for key in KEYS]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, in a list of one."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_burst_of_one_minutes_worth_fits_and_then_one_item_each_interval(clock: list[float]) -> None:
    table = QuotaTable(60)
    assert [table.take(DIGESTS[0]) for _ in range(60)] == [0.0] * 60
    assert table.take(DIGESTS[0]) == pytest.approx(1.0)
    assert table.take(DIGESTS[1], 60) == 0.0  # another key has its own
    clock[0] += 0.5
    assert table.take(DIGESTS[0]) == pytest.approx(0.5)
    clock[0] += 0.5
    assert table.take(DIGESTS[0]) == 0.0
    assert table.take(DIGESTS[0], 10) == pytest.approx(10.0)


def test_any_number_of_minutes_has_at_most_its_own_and_one_more(clock: list[float]) -> None:
    table = QuotaTable(30)
    taken = 0
    for _ in range(5 * 60 * 10):
        taken += table.take(DIGESTS[0]) == 0.0
        clock[0] += 0.1
    assert taken == pytest.approx((5 + 1) * 30, abs=1)


def test_all_or_none_of_a_batch_are_counted_and_one_too_large_never_fits(clock: list[float]) -> None:
    table = QuotaTable(10)
    assert table.take(DIGESTS[0], 11) == float("inf")
    assert table.take(DIGESTS[0], 8) == 0.0
    assert table.take(DIGESTS[0], 3) > 0
    assert table.take(DIGESTS[0], 2) == 0.0


def test_slots_of_keys_that_rest_are_used_again(clock: list[float]) -> None:
    table = QuotaTable(60)
    for number in range(SLOTS + 100):
        if number % 1000 == 0:
            clock[0] += 61
        assert table.take(hashlib.sha256(str(number).encode()).digest()) == 0.0
    busy = hashlib.sha256(str(SLOTS + 99).encode()).digest()
    assert table.take(busy, 60) > 0


FORKING = """
import os, time
from app.quota import QuotaTable

table = QuotaTable(1000, is_shared=True)
key = bytes(range(32))
counts, counts_end = os.pipe()
began_s = time.monotonic()
for number in range(4):
    if os.fork() == 0:
        if number == 0:
            with table._locked():
                os._exit(0)  # it dies with the lock
        os.write(counts_end, b"%d\\n" % sum(table.take(key) == 0.0 for _ in range(600)))
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
taken = sum(map(int, os.read(counts, 1000).split()))
print(1000 <= taken <= 1001 + (time.monotonic() - began_s) * 1000 / 60)
"""


def test_processes_share_one_quota_and_a_dead_one_keeps_no_lock() -> None:
    """Three workers try 600 times each, and get the 1000 items of a burst and what is earned meanwhile."""
    said = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "True\n"


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(api_keys_sha256=tuple(digest.hex() for digest in DIGESTS), max_items_per_minute_per_key=4)
    async with open_client(create_app(settings, engine=engine)) as client:
        client.headers["X-API-Key"] = KEYS[0]
        yield client


def items(count: int) -> dict[str, object]:
    return {"items": [{"text": "red"}] * count}


@pytest.mark.anyio
async def test_a_key_over_its_quota_is_429_before_its_body_is_read(client: httpx.AsyncClient) -> None:
    assert [(await client.post("/v1/classify", json=items(1))).status_code for _ in range(4)] == [200] * 4
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"{}"

    response = await client.post("/v1/embed", content=body())
    assert (response.status_code, response.json()["code"], read) == (429, "quota_exceeded", 0)
    assert 1 <= int(response.headers["retry-after"]) <= 15
    assert response.headers["content-type"] == "application/problem+json"
    assert (await client.get("/v1/models")).status_code == 200  # reading about models costs nothing
    other = {"X-API-Key": KEYS[1]}
    assert (await client.post("/v1/classify", json=items(1), headers=other)).status_code == 200
    assert (await client.post("/v1/classify", json=items(1), headers={"X-API-Key": "wrong"})).status_code == 401


@pytest.mark.anyio
async def test_items_are_what_is_counted(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await client.post("/v1/classify", json=items(3))).status_code == 200
    refused = await client.post("/v1/classify", json=items(2))
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert int(refused.headers["retry-after"]) >= 15
    assert engine.started == 1
    never = await client.post("/v1/classify", json=items(5), headers={"X-API-Key": KEYS[1]})
    assert never.status_code == 429
    assert "split it" in never.json()["detail"]
    assert "retry-after" not in never.headers


@pytest.mark.anyio
async def test_bulk_is_slowed_instead(engine: FakeEngine) -> None:
    settings = Settings(api_keys_sha256=(DIGESTS[0].hex(),), max_items_per_minute_per_key=300)
    async with open_client(create_app(settings, engine=engine)) as client:
        headers = {"X-API-Key": KEYS[0], "Content-Type": "application/x-ndjson"}
        response = await client.post("/v1/classify", content='{"text": "red"}\n' * 302, headers=headers)
    results = [json.loads(line) for line in response.text.splitlines()]
    assert [result["status"] for result in results] == ["ok"] * 302
    assert response.elapsed.total_seconds() > 0.3  # the last two had to be earned


@pytest.mark.anyio
async def test_bulk_waits_even_where_nothing_is_left(engine: FakeEngine) -> None:
    settings = Settings(api_keys_sha256=(DIGESTS[0].hex(),), max_items_per_minute_per_key=300)
    async with open_client(create_app(settings, engine=engine)) as client:
        headers = {"X-API-Key": KEYS[0]}
        assert (await client.post("/v1/classify", json=items(60), headers=headers)).status_code == 200
        while (await client.post("/v1/classify", json=items(60), headers=headers)).status_code == 200:
            pass
        for _ in range(60):
            if (await client.post("/v1/classify", json=items(1), headers=headers)).status_code == 429:
                break
        headers["Content-Type"] = "application/x-ndjson"
        response = await client.post("/v1/classify", content='{"text": "red"}\n' * 2, headers=headers)
    assert response.status_code == 200
    assert [json.loads(line)["status"] for line in response.text.splitlines()] == ["ok"] * 2


@pytest.mark.anyio
async def test_bulk_whose_client_has_gone_leaves_the_quota_to_others(engine: FakeEngine) -> None:
    settings = Settings(api_keys_sha256=(DIGESTS[0].hex(),), max_items_per_minute_per_key=600)
    key = f"X-API-Key: {KEYS[0]}"
    async with listening(settings, engine) as port, connected(port) as leaving, connected(port) as staying:
        leaving.send(request("/v1/classify", b'{"text": "red"}\n' * 2000, key, "Content-Type: application/x-ndjson"))
        async with asyncio.timeout(5):
            while engine.started < 599:
                await asyncio.sleep(0.001)
        leaving.writer.close()
        await asyncio.sleep(0.5)  # earns five, unless the dead stream takes them
        body = json.dumps(items(3)).encode()
        assert b" 200 " in await staying.ask(request("/v1/classify", body, key, "Content-Type: application/json"))
    assert engine.started <= 604


def test_a_quota_without_keys_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match="ITEMLENS_MAX_ITEMS_PER_MINUTE_PER_KEY"):
        Settings(max_items_per_minute_per_key=1).api_keys()
