"""Reading small files that others write, without being held up by them.

Owns opening: a pipe in a file's place must not block its reader, nor a file of any size fill the memory. Refuses to know what
is read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_plain_file(path: Path, *, at_most: int) -> bytes:
    """The first `at_most` bytes. Raises OSError, also where it is no plain file."""
    # Opening a pipe waits for a writer otherwise.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        return file.read(at_most)
