"""Deliveries that wait in the queue until something they all need is there: a site that is dead
or has enough ready, a destination that is suspended or being looked up.

A million may be parked, and cost nothing while they are: whatever blocks them wakes as many as it
can use, of each sender in turn, the oldest first.  Each waits in the queue all the while, where
it can be held, deleted, or come to its end.  Pure.
"""

from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from struct import Struct

from gwrelay.queue.delivery import Delivery

#: When it arrived, its entry in the queue, message id, part: bytes, which sort as the numbers do,
#: and which the garbage collector does not follow.
_PARKED = Struct(">dQQI")
#: A line of a sender is tidied when it has twice as many as after the last time, and more than
#: this; each further one that comes moves so many.
_TIDY_ABOVE = 1000
_TIDIED_AT_ONCE = 8

#: Entry, message id, part → whether it waited, and is due now: Queue.hasten().
Hasten = Callable[[int, int, int], bool]
#: Whether the entry of this number still waits: Queue.waits().
Waits = Callable[[int], bool]


class Parked:
    def __init__(self) -> None:
        #: By sender and kind, those whose turn it is first.  A dict would do, but finding its
        #: first key takes time for each one that was first before.
        self._lines: OrderedDict[int, _Line] = OrderedDict()

    def __len__(self) -> int:
        """Some of them may not wait any more: what an operator or the clock has woken, or ended."""
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def has_older(self, delivery: Delivery) -> bool:
        """Whether its sender has an older one of its kind here, first or further attempt: those
        that were woken are the oldest."""
        line = self._lines.get(_line_of(delivery))
        return line is not None and _PARKED.unpack(line.first)[0] < delivery.arrived_at

    def add(self, delivery: Delivery, waits: Waits, *, was_tried: bool = False) -> None:
        """Remember that `delivery` waits, as its present entry.  `waits` tells which of the others
        still do: who is parked again and again is not to be remembered as often.  `was_tried`:
        its attempt has just ended, and is not counted in it yet."""
        name = _line_of(delivery, was_tried)
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line()
        about = delivery.arrived_at, delivery.entry, delivery.message_id, delivery.part
        line.add(_PARKED.pack(*about), waits)

    def wake(self, limit: int, hasten: Hasten) -> int:
        """Let at most `limit` be due; how many were."""
        woken = 0
        while woken < limit and self._lines:
            name, line = self._lines.popitem(last=False)
            while line:
                _, entry, message_id, part = _PARKED.unpack(line.pop())
                if hasten(entry, message_id, part):
                    woken += 1
                    break
            if line:
                self._lines[name] = line
        return woken


def _line_of(delivery: Delivery, was_tried: bool = False) -> int:
    """First attempts of a sender wait apart from further ones: neither is behind the other."""
    return delivery.turn * 2 + (was_tried or delivery.attempts > 0)


class _Line:
    """Of one sender, the oldest first."""

    __slots__ = ("_heap", "_old", "_tidy_above")

    def __init__(self) -> None:
        self._heap: list[bytes] = []
        #: Another heap, from which those that still wait move to the first, a few at a time.
        self._old: list[bytes] = []
        self._tidy_above = _TIDY_ABOVE

    def __len__(self) -> int:
        return len(self._heap) + len(self._old)

    def add(self, packed: bytes, waits: Waits) -> None:
        heappush(self._heap, packed)
        if self._old:
            self._tidy(waits)
        elif len(self._heap) > self._tidy_above:
            self._heap, self._old = self._old, self._heap

    @property
    def first(self) -> bytes:
        return self._next_heap()[0]

    def pop(self) -> bytes:
        return heappop(self._next_heap())

    def _next_heap(self) -> list[bytes]:
        if self._old and not (self._heap and self._heap[0] < self._old[0]):
            return self._old
        return self._heap

    def _tidy(self, waits: Waits) -> None:
        """Off the end, where a heap stays one without them."""
        for _ in range(min(_TIDIED_AT_ONCE, len(self._old))):
            packed = self._old.pop()
            if waits(_PARKED.unpack(packed)[1]):
                heappush(self._heap, packed)
        if not self._old:
            self._tidy_above = max(_TIDY_ABOVE, 2 * len(self._heap))
