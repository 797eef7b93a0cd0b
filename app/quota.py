"""How many items an API key may have answered: one leaky bucket per key, in memory that all workers share.

Owns counting. Refuses to know HTTP and what a key is: it is given a digest. The method is the generic cell rate algorithm
(ITU-T I.371, annex A): a key's state is one number, the time at which its bucket will be empty again.
"""

from __future__ import annotations

import mmap
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

SLOTS = 8192
_SLOT = struct.Struct("=16sd")
"""The beginning of the key's digest, and its time in seconds of the monotonic clock, which all processes of a machine share."""
_FREE = bytes(16)
_LOCK_TRIES = 100
_LOCK_PAUSE_S = 0.0002


class QuotaTable:
    """`items_per_minute` for each key, and bursts of one minute's worth at most: over any t minutes a key gets at most
    (t + 1) * `items_per_minute`. Made before the workers are forked, it is one for all of them.

    A worker that dies in the middle of counting lets go of the lock, since it belongs to the process. If the lock cannot be had
    for 20 ms (its holder was stopped), counting goes on without it: a quota is not worth an outage.
    """

    def __init__(self, items_per_minute: int, *, is_shared: bool = False) -> None:
        self.items_per_minute = items_per_minute
        self._interval_s = 60.0 / items_per_minute
        self._memory = mmap.mmap(-1, SLOTS * _SLOT.size)
        self._lock_file: IO[bytes] | None = tempfile.TemporaryFile() if is_shared else None  # noqa: SIM115  (as long as this)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def take(self, digest: bytes, items: int = 1) -> float:
        """Count `items` if all of them fit; returns 0.0 then, else the seconds until they would (infinite if never)."""
        if items > self.items_per_minute:
            return float("inf")
        with self._locked():
            now = time.monotonic()
            at = self._slot_of(digest, now)
            if at is None:
                return 0.0
            # Another key's slot is only had once its time is past, so its time says as little as that of a free one.
            empty_at_s = max(_SLOT.unpack_from(self._memory, at)[1], now) + items * self._interval_s
            wait_s: float = empty_at_s - now - 60.0
            # A nanosecond of the floats' own error must not refuse the last item of a burst.
            if wait_s > 1e-6:
                return wait_s
            _SLOT.pack_into(self._memory, at, digest[:16], empty_at_s)
            return 0.0

    def _slot_of(self, digest: bytes, now: float) -> int | None:
        """The offset of the key's slot, or of one that it may have; None if the table is full of busy keys.

        A key whose bucket is empty is as good as one never seen, so its slot may go to another.
        """
        spare: int | None = None
        first = int.from_bytes(digest[16:24], "big") % SLOTS
        for step in range(SLOTS):
            at = (first + step) % SLOTS * _SLOT.size
            name, empty_at_s = _SLOT.unpack_from(self._memory, at)
            if name == digest[:16]:
                return at
            if name == _FREE:
                return at if spare is None else spare
            if spare is None and empty_at_s <= now:
                spare = at
        return spare

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._lock_file is None:
            yield
            return
        import fcntl  # only with several workers, which need POSIX anyway

        is_held = False
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(_LOCK_PAUSE_S)
            else:
                is_held = True
                break
        try:
            yield
        finally:
            if is_held:
                fcntl.lockf(self._lock_file, fcntl.LOCK_UN)


@dataclass(frozen=True, slots=True)
class KeyQuota:
    """One key's share of the table."""

    table: QuotaTable
    digest: bytes

    @property
    def items_per_minute(self) -> int:
        return self.table.items_per_minute

    @property
    def interval_s(self) -> float:
        """Seconds until one more item fits."""
        return 60.0 / self.table.items_per_minute

    def take(self, items: int = 1) -> float:
        """As `QuotaTable.take`."""
        return self.table.take(self.digest, items)
