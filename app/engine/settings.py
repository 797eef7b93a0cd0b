"""The engine's limits: names, units, bounds, defaults and the reason for each default.

Owns `EngineSettings`. Refuses to know where values come from: the app reads the environment, tests write literals.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RuntimeChoice = Literal["auto", "tensorflow", "litert"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Raises ValueError, naming the setting and its bounds, for a value outside them."""

    models_dir: Path = Path("models")
    """Holds `<name>/<version>/` bundles."""
    runtime: RuntimeChoice = "auto"
    """`auto`: LiteRT, a third of TensorFlow's memory, where the bundle has it and it passes; else TensorFlow."""
    default_model: str | None = None
    """The model of a request that names none. None: `fashion` if present, else the first by name."""
    default_version: str | None = None
    """Pins the default model to one version; that one is then served or the service does not start."""
    max_versions_per_model: int = 2
    """Versions of one model in memory, 1 to 16: the default and, beside it, the newest others. 2: whoever built an index with
    the version before is served from it until the index is rebuilt, and a roll-back needs no loading."""
    models_poll_s: float = 10.0
    """Seconds between two looks at the models folder, 0 to 86,400; 0 means only when asked. A look is a few dozen file
    status calls."""
    runtime_threads: int = 0
    """Threads inside one runtime call, 0 to 256. 0: as many as CPUs this process may use."""
    decode_threads: int = 0
    """Photos decoded at the same time, 0 to 256. 0: as many as CPUs this process may use. Bounds the memory of decoded
    photos too: at most this many, each up to `decode_thread_bytes`, and one up to `decode_process_bytes`."""
    max_batch_items: int = 32
    """Items in one runtime call, 1 to 1024. A cap only: the size that pays on this machine is measured at warm-up."""
    max_queue_items: int = 512
    """Items of one model admitted and not yet answered, 1 to 65,536; more is refused with `overloaded`. 512 is eight
    requests of 64, under half a second of work on two cores."""
    overload_queue_ms: int = 40
    """Milliseconds of work that may wait while more comes than can be answered, 1 to 60,000. 40: the runtime stays busy, who
    is let in waits about as long as the slowest hundredth does at four fifths of the load."""
    max_image_bytes: int = 10 * 1024 * 1024
    """Bytes of one encoded photo, 1 KiB to 256 MiB. 10 MiB holds nearly any camera's JPEG."""
    max_image_pixels: int = 50_000_000
    """Pixels of one photo, 1,024 to 1,000,000,000, checked before any is decoded. 50 megapixels is 150 MB decoded."""
    max_jpeg_scans: int = 100
    """Passes of one JPEG, 1 to 10,000. Encoders write about ten; thousands, each nearly empty, are an attack."""
    decode_thread_bytes: int = 64 * 1024 * 1024
    """Memory, in bytes, that decoding a photo may take in a thread, 1 MiB to 16 GiB. What takes more is decoded in a process
    of its own. 64 MiB holds any plain JPEG, a PNG of 16 megapixels and a WebP of 3."""
    decode_process_bytes: int = 1024 * 1024 * 1024
    """Memory, in bytes, that this process may take, 64 MiB to 64 GiB. A WebP of 50 megapixels takes 920 MB."""
    decode_timeout_ms: int = 4_000
    """Milliseconds of processor time that this process may take for a photo, 100 to 60,000. A PNG of 50 megapixels takes
    2,200."""
    mask_personal_data: bool = True
    """Whether e-mail addresses, phone, card and account numbers and IP addresses in titles are masked before anything reads
    them."""
    max_text_chars: int = 2_000
    """Characters of one title, 1 to 1,000,000. Marketplaces allow 80 to 250."""
    max_image_fetches: int = 16
    """Photos fetched at the same time, 1 to 1024."""
    max_fetched_bytes: int = 192 * 1024 * 1024
    """Bytes of photos that are being fetched, each counted as `max_image_bytes`, or wait to be read, 1 KiB to 64 GiB; the next
    fetch waits for room. One photo always has it. 192 MiB: 16 under way, and 32 MiB for the threads that read."""
    max_fetching_items: int = 128
    """Items whose photo is not there yet, 1 to 65,536, of all models; more is refused with `overloaded`. They fill a quarter
    of the queue at most."""

    def __post_init__(self) -> None:
        _check("max_versions_per_model", self.max_versions_per_model, 1, 16)
        _check("models_poll_s", self.models_poll_s, 0, 86_400)
        _check("runtime_threads", self.runtime_threads, 0, 256)
        _check("decode_threads", self.decode_threads, 0, 256)
        _check("max_batch_items", self.max_batch_items, 1, 1024)
        _check("max_queue_items", self.max_queue_items, 1, 65_536)
        _check("overload_queue_ms", self.overload_queue_ms, 1, 60_000)
        _check("max_image_bytes", self.max_image_bytes, 1024, 256 * 1024 * 1024)
        _check("max_image_pixels", self.max_image_pixels, 1024, 1_000_000_000)
        _check("max_jpeg_scans", self.max_jpeg_scans, 1, 10_000)
        _check("decode_thread_bytes", self.decode_thread_bytes, 1024 * 1024, 16 * 1024**3)
        _check("decode_process_bytes", self.decode_process_bytes, 64 * 1024 * 1024, 64 * 1024**3)
        _check("decode_timeout_ms", self.decode_timeout_ms, 100, 60_000)
        _check("max_text_chars", self.max_text_chars, 1, 1_000_000)
        _check("max_image_fetches", self.max_image_fetches, 1, 1024)
        _check("max_fetched_bytes", self.max_fetched_bytes, 1024, 64 * 1024**3)
        _check("max_fetching_items", self.max_fetching_items, 1, 65_536)

    @property
    def effective_runtime_threads(self) -> int:
        return self.runtime_threads or usable_cpus()

    @property
    def effective_decode_threads(self) -> int:
        return self.decode_threads or usable_cpus()


def usable_cpus() -> int:
    """CPUs this process may use: its affinity, and the container's CPU quota where there is one. At least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, _quota_cpus(Path("/sys/fs/cgroup")) or cpus))


def _quota_cpus(cgroup: Path) -> int | None:
    """The CPU quota of a cgroup, version 2 or 1, rounded up; None where there is none."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        return math.ceil(int(quota) / int(period)) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _check(name: str, value: float, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {value}")
