"""What has come of a request's body, in as few copies and pages as it takes.

Owns where the bytes are kept until all are there. Refuses to know what they are, who sends them and how fast.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

_MIB = 1024 * 1024
_MOST_PIECES_BYTES = _MIB // 2
"""More than nearly all shop photos in base64."""
_LEAST_BLOCK_BYTES = 4 * _MIB + 1
"""More than what `app.engine.memory` lets come out of the heap."""
_HUGE_PAGE_BYTES = 2 * _MIB
_SMALL_BYTES = _MIB
"""A body that is hardly large takes little more than its size."""

_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
_new_bytearray.restype, _new_bytearray.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t)
if sys.platform == "linux":
    _madvise = ctypes.PyDLL(None).madvise
    _madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class ReceivedBody:
    """A small body is joined once, at its end. A large one is written into one growing block that the C library takes from the
    system and gives back whole; pieces come out of its heap and may leave it 32 MiB larger.

    `announced_bytes`: its Content-Length, 0 where there is none.
    """

    __slots__ = ("_announced_bytes", "_block", "_pieces", "_size")

    def __init__(self, announced_bytes: int = 0) -> None:
        self._announced_bytes = announced_bytes
        self._block: bytearray | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        if self._block is None:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size <= _MOST_PIECES_BYTES:
                return
            self._block, pieces, self._size = _unwritten(self._announced_bytes), self._pieces, 0
            self._pieces = []
        else:
            pieces = [piece]
        for waiting in pieces:
            end = self._size + len(waiting)
            if end <= len(self._block):
                self._block[self._size : end] = waiting
            else:
                del self._block[self._size :]
                self._block += waiting
            self._size = end

    def whole(self) -> bytes | bytearray:
        """What was added, once and at the end."""
        if self._block is not None:
            del self._block[self._size :]
            return self._block
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


def _unwritten(final_bytes: int) -> bytearray:
    """A block whose content is anything, to be written before it is read. What is not written to takes no memory, and
    `bytearray(final_bytes)` would write to all of it. `final_bytes`: 0 where it will grow.

    But for its first MiB or two it is in huge pages, where Linux has them on demand: for 64 shop photos the kernel would make
    1,200 pages one by one, 20 us for each photo. So a body takes at most 2 MiB more than has come of it. A block that will grow
    has none, since with pages of two kinds it could not be moved without copying.
    """
    # A whole number of huge pages with what malloc adds: the kernel then places it where such a page may begin.
    least_bytes = max(final_bytes, _LEAST_BLOCK_BYTES) + mmap.PAGESIZE
    size = -(-least_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES - mmap.PAGESIZE
    block: bytearray = _new_bytearray(None, size)
    if final_bytes and sys.platform == "linux":
        start = ctypes.addressof(ctypes.c_char.from_buffer(block))
        huge = -(-(start + _SMALL_BYTES) // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        if huge < start + size:
            _madvise(huge, start + size - huge, mmap.MADV_HUGEPAGE)
    return block
