"""How long a queue may be: telling overload from a burst.

A queue is there for bursts: what came at once is answered a little later. Where for a while more comes than can be answered, a
long queue answers no more than a short one and only makes everybody wait; then it is kept short. Owns this judgement alone.
Refuses to know what is queued, and to look at a clock: it is told the time.
"""

from __future__ import annotations

_WINDOW_S = 0.1
_WINDOW_ITEMS = 8
"""A window lasts long enough for so many items, since what happens to fewer is chance."""
_EXCESS = 1.5
_WINDOWS_TO_BEGIN = 3
_WINDOWS_TO_END = 10


class QueueLimit:
    """`max_items`, and in overload what takes `short_s` (or `least_items`, if these take longer).

    Overload begins when in three windows on end half as much again was offered as was answered while the queue was longer than
    that, or when the queue has been full. It ends when nothing had to be refused in ten windows. A window is a tenth of a
    second, or the time of eight items. Clients that wait for their answer before they send again, however many, offer no more
    than is answered: they are not taken for overload.

    Times are seconds of one monotonic clock; `queued` counts what is admitted and not settled. Not thread-safe.
    """

    def __init__(self, *, max_items: int, least_items: int, short_s: float) -> None:
        self.is_overloaded = False
        self._max_items = max_items
        self._least_items = least_items
        self._short_s = short_s
        self._began_s = 0.0
        self._offered = self._answered = self._refused = 0
        self._was_full = False
        self._expected = 0
        """Requests that were let in and have offered nothing yet."""
        self._excessive = self._quiet = 0

    def has_room(self, items: int, *, queued: int, seconds_per_item: float) -> bool:
        """Whether `items` more may be queued. In overload it is what waits before them that counts, not how many they are."""
        if queued + items > self._max_items:
            return False
        return not self.is_overloaded or not self._is_long(queued, seconds_per_item)

    def admits(self, items: int, *, queued: int, seconds_per_item: float, now_s: float) -> bool:
        """`has_room`, of what is offered now: it counts, admitted or not."""
        self._look_at_clock(queued, seconds_per_item, now_s)
        self._expected = max(0, self._expected - 1)
        self._offered += items
        if self.has_room(items, queued=queued, seconds_per_item=seconds_per_item):
            return True
        self._refused += 1
        self._was_full |= queued + items > self._max_items
        return False

    def lets_in(self, *, queued: int, seconds_per_item: float, now_s: float) -> bool:
        """Whether a request may be read that will offer an item; if not, it counts as offered and refused.

        Those that were let in and have offered nothing yet count as queued; of many that come in one moment all would be
        let in for the sake of one place otherwise.
        """
        self._look_at_clock(queued, seconds_per_item, now_s)
        if self.has_room(1, queued=queued + self._expected, seconds_per_item=seconds_per_item):
            self._expected += 1
            return True
        self._offered += 1
        self._refused += 1
        return False

    def answer(self, items: int) -> None:
        """`items` of the queue are settled."""
        self._answered += items

    def _is_long(self, queued: int, seconds_per_item: float) -> bool:
        return queued > self._least_items and queued * seconds_per_item > self._short_s

    def _look_at_clock(self, queued: int, seconds_per_item: float, now_s: float) -> None:
        if now_s - self._began_s >= max(_WINDOW_S, _WINDOW_ITEMS * seconds_per_item):
            self._end_window(now_s, is_long=self._is_long(queued, seconds_per_item))

    def _end_window(self, now_s: float, *, is_long: bool) -> None:
        # Some never offer anything: a body that is malformed, or does not come.
        self._expected = 0
        is_excessive = is_long and self._offered > _EXCESS * self._answered
        self._excessive = self._excessive + 1 if is_excessive else 0
        self._quiet = 0 if self._refused else self._quiet + 1
        if self._excessive >= _WINDOWS_TO_BEGIN or self._was_full:
            self.is_overloaded = True
        elif self._quiet >= _WINDOWS_TO_END:
            self.is_overloaded = False
        self._began_s = now_s
        self._offered = self._answered = self._refused = 0
        self._was_full = False
