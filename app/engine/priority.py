"""Which threads go first where there are fewer cores than threads: the event loop.

Owns the niceness of the engine's own threads. Refuses to know what they do.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

_NICENESS = 5
"""A third of the event loop's weight: enough for the loop to take in, on one core, ten times what can be answered. With equal
weights refusals waited up to seconds there, behind the very work that they are to be spared."""
_MOST = 19


def give_way() -> None:
    """Have this thread, and those that it starts, wait for the event loop's. There is no way back without privileges.

    Does nothing but on Linux, which alone gives threads priorities of their own, and where it is forbidden.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, min(_MOST, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS))
