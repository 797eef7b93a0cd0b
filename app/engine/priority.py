"""Which threads go first where there are fewer cores than threads: the event loop, but not in the middle of another's turn.

Owns the scheduling of the event loop's and of the engine's own threads. Refuses to know what they do.
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


def take_turns() -> None:
    """Have this thread, an event loop's, wait for the end of the running one's turn (up to 4 ms) when something comes for it.

    Otherwise each arriving request interrupts the batch that is being worked on, and both threads find their caches emptied by
    the other. What has come meanwhile is then taken in one go. It gets its share of the core as before, so refusals are late
    by a turn at most. Does nothing but on Linux, and where it is forbidden.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def give_way() -> None:
    """Have this thread, and those that it starts, wait for the event loop's. There is no way back without privileges.

    Does nothing but on Linux, which alone gives threads priorities of their own, and where it is forbidden.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_BATCH:
            # Inherited; of two that wait for each other's turn, the event loop would have to wait longer.
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, thread, min(_MOST, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS))
