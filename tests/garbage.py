"""What is left for the garbage collector, which looks seldom: until it does, a circle of objects keeps all that it reaches."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_of() -> Iterator[Counter[str]]:
    """The types of what the block leaves in circles and the package `app`, or a frame of it, has made; filled at its end."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        for left in gc.garbage:
            kind = type(left)
            if kind.__module__.startswith(("app.", "uvicorn.")):
                found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
