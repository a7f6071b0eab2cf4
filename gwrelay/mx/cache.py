"""What is known about destinations, and until when: a bounded table in order of use.

Knows nothing of DNS or mail and never looks at a clock.  Reads take no lock, since they are
on the path of every message; whoever changes the table holds a lock of his own.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Entry(Generic[V]):
    """One answer.  All times are those of the owner's clock, in seconds."""

    __slots__ = ("expires_at", "failing", "made_at", "stale_until", "used_at", "value", "visit_at")

    def __init__(
        self, value: V, now: float, expires_at: float, stale_until: float, visit_at: float
    ) -> None:
        self.value = value
        self.made_at = now
        self.expires_at = expires_at
        #: Better than nothing until then, if no newer answer can be had.
        self.stale_until = stale_until
        #: When the owner wants to look at it next: to refresh or to drop it.
        self.visit_at = visit_at
        #: When the owner was last asked for it.
        self.used_at = now
        #: The last try to refresh it failed.
        self.failing = False

    def is_in_use(self) -> bool:
        """Whether somebody asked for it in the second half of its life: so will others."""
        return 2 * self.used_at > self.made_at + self.expires_at


class Cache(Generic[K, V]):
    """At most `size` entries (at least 1); the one unused for longest leaves first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, Entry[V]] = OrderedDict()
        #: (visit_at, number, key), possibly out of date: entries do not know their place in it.
        #: Numbers differ, so that keys, which may be of several types, are never compared.
        self._visits: list[tuple[float, int, K]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> Entry[V] | None:
        """The entry, however old; it will be among the last to leave."""
        entry = self._entries.get(key)
        if entry is not None:
            try:
                self._entries.move_to_end(key)
            except KeyError:  # another thread dropped it between the two lines
                return entry
        return entry

    def peek(self, key: K) -> Entry[V] | None:
        """The entry, however old, without any effect on when it leaves."""
        return self._entries.get(key)

    def put(self, key: K, entry: Entry[V]) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        self.visit(key, entry.visit_at)

    def drop(self, key: K) -> None:
        self._entries.pop(key, None)

    def visit(self, key: K, at: float) -> None:
        """Have `key` visited at `at` instead of when it was going to be."""
        self._entries[key].visit_at = at
        heapq.heappush(self._visits, (at, next(self._numbers), key))
        # Entries that left by age stay behind in the heap until their time comes, which may
        # be a day; without this a stream of ever new names would grow it without bound.
        if len(self._visits) > 2 * self._size + 64:
            self._visits = [
                (entry.visit_at, next(self._numbers), name) for name, entry in self._entries.items()
            ]
            heapq.heapify(self._visits)

    def next_at(self) -> float:
        """When the next visit comes, which may turn out to be out of date; infinity if none."""
        return self._visits[0][0] if self._visits else math.inf

    def next_visit(self) -> K | None:
        """Take the visit of next_at(): the key to look at, or None if it was out of date.

        One at a time, so that the caller decides how many he has time for.
        """
        at, _, key = heapq.heappop(self._visits)
        entry = self._entries.get(key)
        return key if entry is not None and entry.visit_at == at else None
