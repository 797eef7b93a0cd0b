"""How a process becomes a worker: forked while signals are held back, rid of what is its parent's, run, ended.

Owns the new process's signals, its last words and its exit code. Refuses to know what a worker serves and who watches over it
(`app.supervisor`). POSIX only.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import structlog

from app.worker_link import ParentLink, WorkerFailed

log = structlog.stdlib.get_logger("itemlens")

PARENT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
"""What the parent is told by."""
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def fork_worker(parent: ParentLink, let_go: Callable[[], None], work: Callable[[], int]) -> int:
    """The pid of a new process, which lets go of what is its parent's and works; in that process this never returns.

    At first the child has its parent's actions and its parent's wake-up pipe: a signal to it would be one to the parent. So
    signals wait until it has its own.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {*PARENT_SIGNALS, *_NOT_FOR_WORKERS})
    try:
        pid = os.fork()
        if pid == 0:
            _be_worker(parent, let_go, work, held)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _be_worker(
    parent: ParentLink, let_go: Callable[[], None], work: Callable[[], int], held: set[int | signal.Signals]
) -> None:
    """The child's life; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        # A terminal sends Ctrl-C to the whole group; the parent passes it on as SIGTERM, once.
        for number in {*PARENT_SIGNALS, *_NOT_FOR_WORKERS}:
            signal.signal(number, signal.SIG_IGN if number in _NOT_FOR_WORKERS else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        let_go()
        code = work()
    except WorkerFailed as error:
        parent.fail(str(error))
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException as error:
        log.exception("worker_failed", exc_info=error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
