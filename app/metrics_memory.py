"""What every worker counts, in memory that all of them and their parent share.

Owns the memory, a region for each worker, and the numbers that prometheus_client's metrics keep there. Refuses to know what is
counted and how it is written out (`app.metrics`). A worker that has gone leaves its counters to the next one in its region,
which counts on from there; its gauges end with it. There is no file, as prometheus_client's own way has them: decision 0028.
"""

from __future__ import annotations

import json
import math
import mmap
import threading
from collections.abc import Sequence
from typing import Any

import structlog

log = structlog.stdlib.get_logger("itemlens")

REGION_BYTES = 1024 * 1024
"""Room for some 6,000 numbers. Only what is written is taken."""
_SPARE_REGIONS = 8
"""A roll takes two for each worker; the others are for those that are slow to stop after earlier ones."""

_lock = threading.Lock()
_numbers: list[SharedNumber] = []
"""Those that were made before this process became a worker, in this order: a histogram's buckets are written out in it."""
_region: _Region | None = None
_memory: MetricsMemory | None = None


class SharedNumber:
    """One number of a metric, as prometheus_client asks for it (`prometheus_client.values`): this process's own, until it is a
    worker."""

    def __init__(
        self,
        kind: str,
        metric: str,
        name: str,
        label_names: Sequence[str],
        label_values: Sequence[str],
        _documentation: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        labels = dict(zip(label_names, label_values, strict=True))
        self._key = json.dumps([kind, multiprocess_mode, metric, name.removeprefix(metric), labels]).encode()
        self._words: list[float] | memoryview[float] = [0.0]
        self._at = 0
        with _lock:
            if _memory is None:
                _numbers.append(self)
            else:
                self._move()

    def inc(self, amount: float) -> None:
        with _lock:
            self._words[self._at] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        with _lock:
            self._words[self._at] = value

    def get(self) -> float:
        with _lock:
            return self._words[self._at]

    def set_exemplar(self, _exemplar: object) -> None:
        """Nothing here has any."""

    def get_exemplar(self) -> None:
        """Nothing here has any."""

    def _move(self) -> None:
        """To its place in this worker's region, if there is one."""
        if _region is not None and (at := _region.place(self._key)) is not None:
            self._words, self._at = _region.numbers, at
            if math.isnan(self._words[at]):
                self._words[at] = 0.0


class _Region:
    """Keys and their numbers, one after the other: the key's length, the key, the number, each from a new word of 8 bytes on;
    in front of them the place of the last. One process writes; what is there never moves, so that all may read."""

    def __init__(self, memory: memoryview[int]) -> None:
        self._bytes = memory
        self._words = memory.cast("Q")
        # One aligned machine word is written and read at once, so that no reader ever sees half of it.
        self.numbers = memory.cast("d")
        self._places: dict[bytes, int] = {}
        self._next = 1
        self._is_full = False

    def places(self) -> dict[bytes, int]:
        """Where the number of each key is, with what its worker has added meanwhile."""
        while self._next <= self._words[0]:
            length = self._words[self._next]
            begin = 8 * (self._next + 1)
            place = self._next + 1 + -(-length // 8)
            self._places[bytes(self._bytes[begin : begin + length])] = place
            self._next = place + 1
        return self._places

    def place(self, key: bytes) -> int | None:
        """Where this key's number is, a new one's too; None if there is no room."""
        if (known := self.places().get(key)) is not None:
            return known
        at = self._words[0] + 1
        place = at + 1 + -(-len(key) // 8)
        if place >= len(self._words):
            if not self._is_full:
                self._is_full = True
                log.warning("metrics_incomplete", advice="there are more series than one worker has room for")
            return None
        self._words[at] = len(key)
        self._bytes[8 * (at + 1) : 8 * (at + 1) + len(key)] = key
        self.numbers[place] = 0.0
        self._words[0] = place
        return place

    def end_gauges(self) -> None:
        for key, place in self.places().items():
            if key.startswith(b'["gauge"'):
                self.numbers[place] = math.nan


class MetricsMemory:
    """Made before the workers are forked. The supervisor calls it at the events that its methods are named for."""

    def __init__(self, workers: int) -> None:
        count = 2 * workers + _SPARE_REGIONS
        memory = memoryview(mmap.mmap(-1, count * REGION_BYTES))
        self._regions = [_Region(memory[at : at + REGION_BYTES]) for at in range(0, len(memory), REGION_BYTES)]
        self._free = list(reversed(self._regions))
        self._next: _Region | None = None
        self._of_worker: dict[int, _Region] = {}

    def before_fork(self) -> None:
        """Choose the region of the worker that comes next."""
        if self._next is None and self._free:  # else the last fork has failed
            self._next = self._free.pop()

    def in_worker(self) -> None:
        """In the new process: count there from now on."""
        global _memory, _region
        if self._next is None:
            log.warning("metrics_incomplete", advice="too many workers are still stopping; what this one does is not counted")
        with _lock:
            _memory, _region = self, self._next
            for number in _numbers:
                number._move()
            _numbers.clear()

    def joined(self, pid: int) -> None:
        """In the parent: the worker has been forked."""
        if self._next is not None:
            self._of_worker[pid] = self._next
            self._next = None

    def left(self, pid: int) -> None:
        """In the parent: the worker has ended."""
        if (region := self._of_worker.pop(pid, None)) is not None:
            region.end_gauges()
            self._free.append(region)

    def numbers(self) -> dict[bytes, list[float]]:
        """By key, of every worker that has it."""
        found: dict[bytes, list[float]] = {}
        for region in self._regions:
            with _lock:
                places = list(region.places().items())
            for key, place in places:
                if not math.isnan(number := region.numbers[place]):
                    found.setdefault(key, []).append(number)
        return found


def of_all_workers() -> dict[bytes, list[float]] | None:
    """The numbers of all workers, by a key that is JSON: kind, how gauges are joined, metric, suffix, labels. None in a process
    that is no worker."""
    return None if _memory is None else _memory.numbers()
