"""How fast a runtime works off its queue, learnt from the batches it ran.

Owns the estimate that waits are predicted from. Refuses to know what is queued, and to look at a clock: it is told the time.
"""

from __future__ import annotations

# Weight of the newest batch: about five batches of memory, so that a burst of slow photos fades.
_SMOOTHING = 0.2
# One batch that waited for a slow photo, or for a machine that stood still, must not look like a slow service: requests that
# could be answered in time would be refused. What stays slow is believed after a few batches.
_MOST_SURPRISE = 4.0


class DrainRate:
    """`seconds_per_item`, from a first guess on. Times are seconds of one monotonic clock. Not thread-safe."""

    __slots__ = ("_last_batch_ended_s", "seconds_per_item")

    def __init__(self, seconds_per_item: float) -> None:
        self.seconds_per_item = seconds_per_item
        self._last_batch_ended_s = 0.0

    def learn(self, items: int, *, ended_s: float, has_more: bool) -> None:
        """A batch of `items` has ended. Only one that began right after another, with work left (`has_more`), tells anything;
        an idle service's pace says nothing about it."""
        if self._last_batch_ended_s > 0.0:
            sample = min((ended_s - self._last_batch_ended_s) / items, _MOST_SURPRISE * self.seconds_per_item)
            self.seconds_per_item += _SMOOTHING * (sample - self.seconds_per_item)
        self._last_batch_ended_s = ended_s if has_more else 0.0
