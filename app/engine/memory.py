"""Is there room for another version? Asked before it is loaded, because the kernel's answer would be to kill the process.

Owns reading how much memory is left, an estimate of what a bundle needs, and giving back what is no longer used. Refuses
to know what is loaded.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress
from pathlib import Path

from app.engine.bundle import Bundle

_MIB = 1024 * 1024
# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_OWN_PAGES_BYTES = 4 * _MIB
"""Above any shop photo, encoded or decoded; below a request of 64."""
_BASE_BYTES = 32 * _MIB
_COPIES_PER_BUCKET = 2.0
"""LiteRT packs the weights anew for every batch bucket. Loading the shipped fashion model (5.2 MB, 7 buckets) took 105 MB at
its peak, which is what this and the base come to."""
_COPIES_TENSORFLOW = 12.0
"""Variables, frozen constants, oneDNN's prepared kernels, and what the graph's optimiser holds meanwhile."""


def bytes_needed(bundle: Bundle, *, largest_bucket: int) -> int:
    """A rough upper bound of what loading the bundle takes, with the hungriest runtime that it would be served by."""
    files = bundle.manifest.files
    if "model.tflite" in files:
        buckets = sum(bucket <= largest_bucket for bucket in bundle.manifest.batch_buckets)
        return _BASE_BYTES + int(files["model.tflite"].bytes * _COPIES_PER_BUCKET * buckets)
    saved_model = sum(file.bytes for name, file in files.items() if name == "saved_model.pb" or name.startswith("variables/"))
    return _BASE_BYTES + int(saved_model * _COPIES_TENSORFLOW)


def bytes_available(root: Path = Path("/")) -> int | None:
    """What this process may still take: the least of the machine's MemAvailable and the room in its container's limit
    (cgroup version 2 or 1, page cache that can be dropped counted as room). None where neither can be read."""
    rooms = [room for room in (_machine_room(root), _container_room(root)) if room is not None]
    return max(0, min(rooms)) if rooms else None


def keep_heap_small() -> None:
    """Have glibc give back what large requests took. To be called before threads are started; does nothing elsewhere.

    Left to itself it learns from one body of megabytes to take all others from its heap, whose holes stay; and gives every
    thread a heap of its own. 64 shop photos in one request, often enough, then left a worker 100 MiB larger.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)
        # Set as well, since its default returns the top of the heap after nearly every photo and takes it anew.
        mallopt(_M_TRIM_THRESHOLD, 8 * _OWN_PAGES_BYTES)


def return_freed_memory() -> None:
    """Give back to the system what the C library keeps of freed memory. Does nothing where it has no such call (only
    glibc does)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def release_mapped_files(folder: Path) -> None:
    """Give back the pages of files below `folder` that are mapped to be read alone; what is read again comes back from the page
    cache. Does nothing where the system does not list mappings.

    LiteRT maps its model anew for every batch bucket, and reads nearly all of it once, to pack the weights: 5 MiB of the
    resident memory for each bucket of the shipped fashion model, 30 in all, of which 1 comes back.
    """
    prefix = f"{folder.resolve()}/"
    with suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, mode, _, _, _, *name = line.split(maxsplit=5)
            if name and name[0].startswith(prefix) and "w" not in mode:
                start, end = (int(address, 16) for address in addresses.split("-"))
                madvise(start, end - start, mmap.MADV_DONTNEED)


def _machine_room(root: Path) -> int | None:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _container_room(root: Path) -> int | None:
    group = root / "sys/fs/cgroup"
    for limit, usage, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
            if most == "max":
                return None
            counts = dict(line.split() for line in (group / stat).read_text().splitlines())
            return int(most) - used + int(counts.get(cache, "0"))
        except (OSError, ValueError):
            continue
    return None
