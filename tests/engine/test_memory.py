"""How much memory is left, read from files as Linux writes them, and how much a bundle takes."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest

from app.engine import loading
from app.engine.bundle import load_bundle
from app.engine.errors import NoRoomError
from app.engine.loading import load_version
from app.engine.memory import bytes_available, bytes_needed, release_mapped_files
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


def resident_kib(path: Path) -> int:
    """Of all that this process has mapped of a file."""
    mapped = re.findall(rf"{re.escape(str(path))}\nSize:.*?\nRss: +(\d+) kB", Path("/proc/self/smaps").read_text(), re.DOTALL)
    return sum(map(int, mapped))


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux lists of a process")
def test_what_was_read_of_a_mapped_file_is_given_back_and_can_be_read_again(tmp_path: Path) -> None:
    folder, other = tmp_path / "a model" / "1", tmp_path / "a model" / "10"
    paths = [folder / "model.tflite", other / "model.tflite"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights!" * 65536)
    files = [path.open("r+b") for path in paths]
    read, elsewhere = (mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) for file in files)
    written = mmap.mmap(files[0].fileno(), 0, access=mmap.ACCESS_COPY)
    assert all(bytes(mapped[:8]) == b"weights!" for mapped in (read[:], elsewhere[:]))
    written[:8] = b"changed!"
    before = resident_kib(paths[0]), resident_kib(paths[1])
    release_mapped_files(folder)
    assert resident_kib(paths[0]) <= before[0] - 512, "all but what was written"
    assert resident_kib(paths[1]) == before[1] >= 512
    assert (read[:8], written[:8], elsewhere[:8]) == (b"weights!", b"changed!", b"weights!")
    for mapped in (read, written, elsewhere):
        mapped.close()
    for file in files:
        file.close()
