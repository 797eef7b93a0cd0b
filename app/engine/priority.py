"""Which threads go first where there are fewer cores than threads: the event loop, but not in the middle of another's turn.

Owns the scheduling of the event loop's and of the engine's own threads. Refuses to know what they do.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading
from contextlib import suppress

_NICENESS = 5
"""A third of the event loop's weight: enough for the loop to take in, on one core, ten times what can be answered. With equal
weights refusals waited up to seconds there, behind the very work that they are to be spared."""
_MOST = 19
_LONG_TURN_S = 0.02
"""Of a runtime's thread and of the event loop that it shares a core with; Linux' own end with a tick of 4 ms. Half a batch of
photos: it finds the caches as it left them, and refusals are late by no more."""
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""`struct sched_attr` of <linux/sched/types.h>: size, policy, flags, niceness, priority, runtime in ns, deadline, period."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The system call's number. The C library has no function for it before glibc 2.41."""


def take_turns() -> None:
    """Have this thread, an event loop's, wait for the end of the running one's turn when something comes for it, and take long
    turns itself, as the runtime's thread does: the shorter of two is what both get.

    Otherwise each arriving request interrupts the batch that is being worked on, and both threads find their caches emptied by
    the other. What has come meanwhile is then taken in one go. It gets its share of the core as before, so refusals are late
    by a turn at most. Does nothing but on Linux, and where it is forbidden.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):
        _schedule(os.SCHED_BATCH, 0, turn_s=_LONG_TURN_S)


def give_way(*, in_long_turns: bool = False) -> None:
    """Have this thread, and those that it starts, wait for the event loop's. There is no way back without privileges.

    `in_long_turns`: of a thread that calls `end_turn` when what it does may as well be interrupted. Does nothing but on Linux,
    which alone gives threads priorities of their own, and where it is forbidden.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):
        policy = os.sched_getscheduler(0)
        if policy == os.SCHED_BATCH:
            # Inherited; of two that wait for each other's turn, the event loop would have to wait longer.
            policy = os.SCHED_OTHER
        _schedule(policy, _NICENESS, turn_s=_LONG_TURN_S if in_long_turns else 0.0)


def end_turn() -> None:
    """Let an event loop that waits for this thread's turn to end have the core now."""
    if sys.platform == "linux":
        os.sched_yield()


if sys.platform == "linux":

    def _schedule(policy: int, more_niceness: int, *, turn_s: float) -> None:
        """Of this thread. `turn_s`: 0 for the system's own; before Linux 6.12 it is always that. Raises OSError."""
        thread = threading.get_native_id()
        niceness = min(_MOST, os.getpriority(os.PRIO_PROCESS, thread) + more_niceness)
        number = _SCHED_SETATTR.get(platform.machine()) if sys.maxsize > 2**32 else None
        if number is not None:
            packed = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, niceness, 0, int(turn_s * 1e9), 0, 0)
            attributes = ctypes.create_string_buffer(packed, _ATTRIBUTES.size)
            if ctypes.CDLL(None).syscall(ctypes.c_long(number), ctypes.c_long(0), attributes, ctypes.c_long(0)) == 0:
                return
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, os.sched_param(0))
        if more_niceness:
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
