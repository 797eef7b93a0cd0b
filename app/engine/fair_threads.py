"""Threads that serve several callers in turn: who asks for much waits behind himself.

Owns the order of what waits, and the threads. Refuses to know what is done in them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import structlog

logger = structlog.get_logger(__name__)

Task = Callable[[], object]


class FairThreads:
    """Up to `count` threads, started as they are needed. Of all callers with something waiting, the one who was served longest
    ago is next; each one's own tasks keep their order. Where the system allows fewer threads, those do it all; where it allows
    none, who submits a task does it."""

    def __init__(self, count: int, *, name: str, initializer: Callable[[], None]) -> None:
        self._count, self._name, self._initializer = count, name, initializer
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        # Keys are the callers' identities, which nobody else can have while their tasks, which hold them, wait.
        self._waiting: dict[int, deque[Task]] = {}
        self._turns: deque[int] = deque()
        self._idle = self._tasks = 0
        self._is_closing = False

    def submit(self, caller: object, task: Task) -> None:
        """Have `task` done in a thread. It must hold `caller`, and should not raise: what it raises is logged by its type."""
        key = id(caller)
        with self._changed:
            own = self._waiting.get(key)
            if own is None:
                self._waiting[key] = deque([task])
                self._turns.append(key)
            else:
                own.append(task)
            self._tasks += 1
            if self._tasks <= self._idle or len(self._threads) >= self._count:
                self._changed.notify()
                return
            thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there can be no more of them, for now
                if self._threads:
                    return
                task = self._take()
            else:
                self._threads.append(thread)
                return
        self._do(task)

    def shutdown(self) -> None:
        """Do what waits, then end the threads. Nothing may be submitted any more."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        self._initializer()
        while (task := self._next()) is not None:
            self._do(task)
            del task  # what it holds is not kept until the next one comes

    def _do(self, task: Task) -> None:
        try:
            task()
        except Exception as error:  # a defect of ours; the type alone holds nothing of a request
            logger.error("task_failed", error=type(error).__name__)

    def _next(self) -> Task | None:
        with self._changed:
            while not self._turns:
                if self._is_closing:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            return self._take()

    def _take(self) -> Task:
        """Under the lock, with something waiting."""
        key = self._turns.popleft()
        own = self._waiting[key]
        task = own.popleft()
        self._tasks -= 1
        if own:
            self._turns.append(key)
        else:
            del self._waiting[key]
        return task
