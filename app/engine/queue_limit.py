"""How long a queue may be: telling overload from a burst.

A queue is there for bursts: what came at once is answered a little later. Where for a while more comes than can be answered, a
long queue answers no more than a short one and only makes everybody wait; then it is kept short. Owns this judgement alone.
Refuses to know what is queued, and to look at a clock: it is told the time.
"""

from __future__ import annotations

_WINDOW_S = 0.1
_WINDOW_REQUESTS = 12
"""A window lasts long enough for so many requests of the size that is offered, since what happens to fewer is chance."""
_EXCESS = 1.5
"""What is offered in a window of overload, by what is answered in it."""
_DEBT = 1.5
"""What such windows in a row leave behind, by what is answered in one: two at twice the load, three at half as much again. Two
at least, as a burst fills one alone."""
_WINDOWS_TO_END = 10
_LEAST_EAGERNESS, _MOST_EAGERNESS, _STEP = 1.05, 100.0, 1.2
_MOST_IN_VAIN = 0.1
"""Requests that were read and then refused, for each item that was answered."""


class QueueLimit:
    """`max_items`, and in overload what takes `short_s` (or `least_items`, if these take longer).

    Overload begins when in windows on end (three, or two at twice the load) half as much again was offered as was answered
    while the queue was longer than that, or when the queue has been full. It ends when nothing had to be refused in ten
    windows. A window is a tenth of a second, and until there is overload at least the time of twelve requests. Clients that
    wait for their answer before they send again, however many and with however many items, offer no more than is answered:
    they are not taken for overload.

    Times are seconds of one monotonic clock; `queued` counts what is admitted and not settled. Not thread-safe.
    """

    def __init__(self, *, max_items: int, least_items: int, short_s: float) -> None:
        self.is_overloaded = False
        self._max_items = max_items
        self._least_items = least_items
        self._short_s = short_s
        self._began_s = 0.0
        self._offered = self._squares = self._answered = self._refused = self._read_in_vain = 0
        self._was_full = False
        self._let_in_s = self._places = 0.0
        self._eagerness = _LEAST_EAGERNESS
        self._excessive = self._quiet = 0
        self._debt = 0.0

    def has_room(self, items: int, *, queued: int, seconds_per_item: float) -> bool:
        """Whether `items` more may be queued. In overload it is what waits before them that counts, not how many they are."""
        if queued + items > self._max_items:
            return False
        return not self.is_overloaded or not self.is_long(queued, seconds_per_item)

    def admits(self, items: int, *, queued: int, seconds_per_item: float, now_s: float) -> bool:
        """`has_room`, of what is offered now: it counts, admitted or not."""
        self._look_at_clock(queued, seconds_per_item, now_s)
        self._offered += items
        self._squares += items * items
        if self.has_room(items, queued=queued, seconds_per_item=seconds_per_item):
            return True
        self._refused += 1
        self._read_in_vain += 1
        self._was_full |= queued + items > self._max_items
        return False

    def lets_in(self, *, queued: int, seconds_per_item: float, now_s: float) -> bool:
        """Whether in overload a request may be read that will offer an item; if not, it counts as offered and refused.

        They are let in at the pace of the answers, and not all that come in one moment for the sake of one place: whoever is
        read in vain has cost many times as much. How much faster than the answers is learnt, since some offer nothing (their
        bodies are malformed, or do not come) and the others a body's time later.
        """
        self._look_at_clock(queued, seconds_per_item, now_s)
        earned = (now_s - self._let_in_s) * self._eagerness / seconds_per_item
        self._places = min(self._places + earned, max(1.0, self._short_s / seconds_per_item))
        self._let_in_s = now_s
        if self._places >= 1 and self.has_room(1, queued=queued, seconds_per_item=seconds_per_item):
            self._places -= 1
            return True
        self._offered += 1
        self._squares += 1
        self._refused += 1
        return False

    def answer(self, items: int) -> None:
        """`items` of the queue are settled."""
        self._answered += items

    def is_long(self, queued: int, seconds_per_item: float) -> bool:
        """Whether it would be too long in overload."""
        return queued > self._least_items and queued * seconds_per_item > self._short_s

    def _look_at_clock(self, queued: int, seconds_per_item: float, now_s: float) -> None:
        request_items = 1.0
        if self._offered and not self._was_full and not self.is_overloaded:  # neither of which is by chance
            # Of the request in which an item came, on average over the items: one large request among small ones counts.
            request_items = self._squares / self._offered
        windows = int((now_s - self._began_s) / max(_WINDOW_S, _WINDOW_REQUESTS * request_items * seconds_per_item))
        if windows:
            # Half of a short queue: the runtime may soon have nothing to do.
            is_low = 2 * queued < max(self._least_items, self._short_s / seconds_per_item)
            self._end_window(now_s, is_long=self.is_long(queued, seconds_per_item), is_low=is_low, silent=windows - 1)

    def _end_window(self, now_s: float, *, is_long: bool, is_low: bool, silent: int) -> None:
        """`silent`: windows after it in which nothing was offered, so that nobody looked at the clock."""
        if self._read_in_vain > _MOST_IN_VAIN * self._answered:
            self._eagerness = max(_LEAST_EAGERNESS, self._eagerness / _STEP)
        elif is_low and self._refused:
            self._eagerness = min(_MOST_EAGERNESS, self._eagerness * _STEP)
        is_excessive = is_long and self._offered > _EXCESS * self._answered and not silent
        self._excessive = self._excessive + 1 if is_excessive else 0
        self._debt = self._debt + self._offered / max(1, self._answered) - 1 if is_excessive else 0.0
        self._quiet = (0 if self._refused else self._quiet + 1) + silent
        if (self._excessive > 1 and self._debt >= _DEBT) or (self._was_full and silent < _WINDOWS_TO_END):
            self.is_overloaded = True
        elif self._quiet >= _WINDOWS_TO_END:
            self.is_overloaded = False
            self._eagerness = _LEAST_EAGERNESS
        self._began_s = now_s
        self._offered = self._squares = self._answered = self._refused = self._read_in_vain = 0
        self._was_full = False
