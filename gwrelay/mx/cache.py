"""What is known about destinations, and until when: a bounded table in order of use.

Knows nothing of DNS or mail and never looks at a clock.  Reads take no lock, since they are
on the path of every message; whoever changes the table holds a lock of his own.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Entry(msgspec.Struct, Generic[V], gc=False):
    """One answer.  All times are those of the owner's clock, in seconds.

    `value` must be part of no cycle: the collector does not look here (see Exchange).
    """

    value: V
    made_at: float
    expires_at: float
    #: Better than nothing until then, if no newer answer can be had.
    stale_until: float
    #: When the owner wants to look at it next: to refresh or to drop it.
    visit_at: float
    #: So many at the head of `value` are as good as its first, where that is a list.
    best: int = 0
    #: When the owner was last asked for it; never since it was made: 0.
    used_at: float = 0.0
    #: The last try to refresh it failed.
    failing: bool = False

    def is_in_use(self) -> bool:
        """Whether somebody asked for it in the second half of its life: so will others."""
        return 2 * self.used_at > self.made_at + self.expires_at


class Cache(Generic[K, V]):
    """At most `size` entries (at least 1); the one unused for longest leaves first.

    Visits are kept in buckets of one second and not in a heap: entries that leave by age take
    theirs along, and no step takes longer than another, however many entries there are.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, Entry[V]] = OrderedDict()
        self._find = self._entries.get
        self._move_to_end = self._entries.move_to_end
        #: Second -> keys to be visited then, used as an ordered set.
        self._visits: dict[int, dict[K, None]] = {}
        #: The seconds that have a bucket, as a heap; the bucket may have become empty.
        self._seconds: list[int] = []

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> Entry[V] | None:
        """The entry, however old; it will be among the last to leave."""
        entry = self._find(key)
        if entry is not None:
            try:
                self._move_to_end(key)
            except KeyError:  # another thread dropped it between the two lines
                return entry
        return entry

    def peek(self, key: K) -> Entry[V] | None:
        """The entry, however old, without any effect on when it leaves."""
        return self._entries.get(key)

    def in_order(self) -> list[K]:
        """As they are now, the one unused for longest first."""
        return list(self._entries)

    def put(self, key: K, entry: Entry[V]) -> None:
        old = self._entries.get(key)
        if old is not None:
            self._call_off(key, old)
        elif len(self._entries) >= self._size:
            self.drop(next(iter(self._entries)))
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self.visit(key, entry.visit_at)

    def drop(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._call_off(key, entry)

    def visit(self, key: K, at: float) -> None:
        """Have `key` visited at `at` instead of when it was going to be."""
        entry = self._entries[key]
        self._call_off(key, entry)
        entry.visit_at = at
        second = math.ceil(at)
        bucket = self._visits.get(second)
        if bucket is None:
            bucket = self._visits[second] = {}
            heapq.heappush(self._seconds, second)
        bucket[key] = None

    def next_at(self) -> float:
        """When next_visit() is worth a call; infinity if there is nothing to visit."""
        return self._seconds[0] if self._seconds else math.inf

    def next_visit(self) -> K | None:
        """Take the key to visit first; None if those of its second have all been called off.

        One at a time, so that the caller decides how many he has time for.
        """
        bucket = self._visits[self._seconds[0]]
        key = bucket.popitem()[0] if bucket else None
        if not bucket:
            del self._visits[heapq.heappop(self._seconds)]
        return key

    def _call_off(self, key: K, entry: Entry[V]) -> None:
        bucket = self._visits.get(math.ceil(entry.visit_at))
        if bucket is not None:
            bucket.pop(key, None)
