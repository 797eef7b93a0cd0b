"""How much memory is left, read from files as Linux writes them, and how much a bundle takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.engine import loading
from app.engine.bundle import load_bundle
from app.engine.errors import NoRoomError
from app.engine.loading import load_version
from app.engine.memory import bytes_available, bytes_needed
from app.engine.serving_plan import VersionKey
from app.engine.settings import EngineSettings

MIB = 1024 * 1024


def write(root: Path, **files: str) -> Path:
    places = {
        "meminfo": "proc/meminfo",
        "most": "sys/fs/cgroup/memory.max",
        "used": "sys/fs/cgroup/memory.current",
        "stat": "sys/fs/cgroup/memory.stat",
        "old_most": "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "old_used": "sys/fs/cgroup/memory/memory.usage_in_bytes",
        "old_stat": "sys/fs/cgroup/memory/memory.stat",
    }
    for name, content in files.items():
        (root / places[name]).parent.mkdir(parents=True, exist_ok=True)
        (root / places[name]).write_text(content)
    return root


def test_the_machines_memory_is_read(tmp_path: Path) -> None:
    assert bytes_available(write(tmp_path, meminfo="MemTotal: 9 kB\nMemAvailable:     2048 kB\n")) == 2 * MIB


def test_a_containers_limit_counts_where_it_is_tighter(tmp_path: Path) -> None:
    root = write(tmp_path, meminfo="MemAvailable: 1048576 kB\n", most="1000\n", used="900\n", stat="anon 5\ninactive_file 50\n")
    assert bytes_available(root) == 150
    assert bytes_available(write(root, used="2000\n")) == 0
    assert bytes_available(write(root, most="max\n")) == 1024 * MIB


def test_the_older_kind_of_container_is_read_too(tmp_path: Path) -> None:
    root = write(tmp_path, old_most="1000\n", old_used="900\n", old_stat="cache 5\ntotal_inactive_file 50\n")
    assert bytes_available(root) == 150


def test_unknown_is_none(tmp_path: Path) -> None:
    assert bytes_available(tmp_path) is None
    assert bytes_available(write(tmp_path, meminfo="garbage", most="what?")) is None


def test_a_bundle_needs_a_multiple_of_its_model(tiny_copy: Path) -> None:
    bundle = load_bundle(tiny_copy)
    model = bundle.manifest.files["model.tflite"].bytes
    assert bytes_needed(bundle, largest_bucket=1) < bytes_needed(bundle, largest_bucket=64)
    assert bytes_needed(bundle, largest_bucket=64) > 32 * MIB + model


def test_a_version_that_has_no_room_beside_the_others_is_refused_and_says_so(
    tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineSettings(models_dir=tiny_copy.parent.parent, runtime="litert", runtime_threads=1)
    key = VersionKey("tiny", "1", load_bundle(tiny_copy).digest)
    monkeypatch.setattr(loading, "bytes_available", lambda: 20 * MIB)
    first = load_version(key, settings)
    with pytest.raises(NoRoomError, match=r"^tiny/1: loading it needs about 32 MiB and 20 MiB are free; .*SIGUSR1$"):
        load_version(key, settings, beside=[first])
    monkeypatch.setattr(loading, "bytes_available", lambda: None)
    load_version(key, settings, beside=[first])
