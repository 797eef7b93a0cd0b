"""How much of what was sent the other side of a connection has not acknowledged.

Owns the question to the kernel, where there is one to ask. Refuses to know what was sent, and how much is too much.
"""

from __future__ import annotations

import asyncio
import sys

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Here and, on Linux, in the kernel, which takes more only once a third of its megabytes is free."""
    unsent = transport.get_write_buffer_size()
    if sys.platform != "linux":
        return unsent
    connection = transport.get_extra_info("socket")
    if connection is None:  # closed a moment ago
        return unsent
    try:
        queued = ioctl(connection.fileno(), TIOCOUTQ, bytes(4))
    except OSError:
        return unsent
    return unsent + int.from_bytes(queued, sys.byteorder)
