"""Keys that change while the service runs, and what the time of a refusal tells."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog.testing

from app import api_keys
from app.api_keys import ApiKeys, KeyFileError, read_digests
from app.main import create_app
from app.settings import Settings
from tests.conftest import FakeEngine, open_client


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(digest("old") + "\n")
    return path


@pytest.fixture
def keys(path: Path) -> ApiKeys:
    return ApiKeys([digest("fixed")], path)


def allowed(keys: ApiKeys) -> set[str]:
    return {name for name in ("fixed", "old", "new") if keys.match(name.encode()) is not None}


def test_a_changed_file_is_read_again(keys: ApiKeys, path: Path) -> None:
    assert not keys.refresh()
    path.write_text(f"{digest('old')} # storefront\n{digest('new')}\n")
    assert keys.refresh()
    assert allowed(keys) == {"fixed", "old", "new"}
    path.write_text(digest("new") + "\n")
    assert keys.refresh()
    assert allowed(keys) == {"fixed", "new"}


def test_a_link_that_is_switched_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes renews a mounted secret; both files may be of one size and one age."""
    for name in ("old", "new"):
        (tmp_path / name).write_text(digest(name))
    link = tmp_path / "keys"
    link.symlink_to("old")
    keys = ApiKeys((), link)
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").rename(link)
    assert keys.refresh()
    assert allowed(keys) == {"new"}


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "CANARY\n", "\xff"])
def test_a_broken_file_keeps_the_keys_and_is_reported_once(
    keys: ApiKeys, path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    create_app(Settings(log_format="json"), engine=FakeEngine())  # for its logging
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    for _ in range(3):
        assert not keys.refresh()
    assert allowed(keys) == {"fixed", "old"}
    [line] = capsys.readouterr().out.splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["keys"]) == ("api_keys_kept", "error", 2)
    assert "CANARY" not in line
    path.write_text(digest("new"))
    assert keys.refresh()
    assert allowed(keys) == {"fixed", "new"}


def test_a_file_that_becomes_readable_is_read(keys: ApiKeys, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written first, and given to the service's user a moment later; neither its time nor its size tells of that."""
    path.write_text(digest("new"))
    with monkeypatch.context() as patch:
        patch.setattr(api_keys, "_signature", lambda _: (1,))
        patch.setattr(api_keys, "read_plain_file", unreadable)
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                assert not keys.refresh()
        assert [entry["event"] for entry in logs] == ["api_keys_kept"]
        patch.undo()
        patch.setattr(api_keys, "_signature", lambda _: (1,))
        assert keys.refresh()
    assert allowed(keys) == {"fixed", "new"}, "a revoked key must not live on"


def unreadable(*_: object, **__: object) -> bytes:
    raise PermissionError(13, "Permission denied")


def test_neither_a_huge_file_nor_a_pipe_is_read(keys: ApiKeys, path: Path) -> None:
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with pytest.raises(KeyFileError, match="more than 1,048,576 bytes"):
        read_digests(path)
    assert not keys.refresh()
    if hasattr(os, "mkfifo"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(KeyFileError, match="cannot be read"):
            read_digests(path)
        assert not keys.refresh()
    assert allowed(keys) == {"fixed", "old"}


def test_a_mark_of_the_byte_order_is_no_digit(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + digest("new").encode())
    assert read_digests(path) == (digest("new"),)


def test_a_file_that_is_broken_from_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        ApiKeys((), tmp_path / "nothing")


@pytest.mark.anyio
async def test_the_running_service_follows_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "POLL_S", 0.01)
    async with open_client(create_app(Settings(api_keys_file=path), engine=FakeEngine())) as client:

        async def status(key: str) -> int:
            return (await client.get("/v1/models", headers={"X-API-Key": key})).status_code

        assert (await status("old"), await status("new")) == (200, 401)
        path.write_text(digest("new"))
        async with asyncio.timeout(10):
            while await status("new") != 200:
                await asyncio.sleep(0.01)
        assert await status("old") == 401


KEYS = [f"key-{number:04d}" for number in range(50)]


def times_ns(keys: ApiKeys, attempts: dict[str, bytes], count: int) -> Iterator[tuple[str, int]]:
    """`count` times of each attempt, taken in turn, so that what else the machine does meets them all."""
    for _ in range(count):
        for name, key in attempts.items():
            began = time.perf_counter_ns()
            keys.match(key)
            yield name, time.perf_counter_ns() - began


@pytest.mark.slow
def test_the_time_of_a_check_tells_nothing() -> None:
    """10,000 times each: the first and the last key, and wrong ones whose digests share much or nothing with an allowed one."""
    keys = ApiKeys(digest(key) for key in KEYS)
    in_order = sorted(KEYS, key=digest)
    near = min((f"try-{n:04d}" for n in range(9999)), key=lambda key: abs(int(digest(key), 16) - int(digest(in_order[25]), 16)))
    attempts = {"first": in_order[0], "last": in_order[-1], "near": near, "far": "no-such1"}
    measured: dict[str, list[int]] = {name: [] for name in attempts}
    for name, taken_ns in times_ns(keys, {name: key.encode() for name, key in attempts.items()}, 10_000):
        measured[name].append(taken_ns)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    # What one measurement varies by anyway: half of them lie this far apart.
    low, _, high = statistics.quantiles(measured["far"], n=4)
    noise_ns = max(high - low, 50.0)
    assert max(medians.values()) - min(medians.values()) < noise_ns, (medians, noise_ns)
