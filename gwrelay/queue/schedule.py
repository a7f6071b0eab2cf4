"""In memory: what waits, and what is due.  No disk, no clock: `now` is given.

A heap by due time.  Every operation costs O(log n) of what waits, and taking what is due
costs nothing for what is not.
"""

from heapq import heapify, heappop, heappush
from struct import Struct

#: due_at, running number, message id, part.  The number keeps equal times in the order they were
#: added in: of all that waits for a dead host, another one each time is the first to try it.
#: Big-endian and none below zero, so they sort as bytes as they do as numbers.  A bytes object
#: costs 64 bytes (the tuple and its numbers: 168), and the garbage collector, which would stop
#: the gateway to walk a million tuples, never looks at it.
_ENTRY = Struct(">dQQI")
_LAST = 2**64 - 1, 2**64 - 1, 2**32 - 1

#: (due_at in Unix seconds, message id, part): a part is its first recipient.
Entry = tuple[float, int, int]


class Schedule:
    def __init__(self) -> None:
        # The same list for life: gc.freeze() at the start takes it, alone, out of every
        # later collection.
        self._heap: list[bytes] = []
        self._added = 0
        #: Numbers of entries that hasten() may still find, and of those that it has replaced.
        self._known: set[int] = set()
        self._void: set[int] = set()

    def __len__(self) -> int:
        return len(self._heap) - len(self._void)

    def add(self, due_at: float, message_id: int, part: int) -> None:
        """Wait until `due_at` (Unix seconds)."""
        self._added += 1
        due_at = due_at if due_at > 0.0 else 0.0
        heappush(self._heap, _ENTRY.pack(due_at, self._added, message_id, part))

    def add_known(self, due_at: float, message_id: int, part: int) -> int:
        """Likewise.  → the number by which hasten() finds the entry."""
        self.add(due_at, message_id, part)
        self._known.add(self._added)
        return self._added

    def knows(self, number: int) -> bool:
        """Whether the entry of this number still waits."""
        return number in self._known

    def hasten(self, number: int, due_at: float, message_id: int, part: int) -> bool:
        """Let the entry of this number, of that part, be due at `due_at` instead.  False when it
        does not wait any more."""
        if number not in self._known:
            return False
        self._known.discard(number)
        self._void.add(number)
        self.add(due_at, message_id, part)
        return True

    def take_due(self, now: float, limit: int) -> list[Entry]:
        """At most `limit` whose time has come: earliest first."""
        heap = self._heap
        due: list[Entry] = []
        if heap:
            latest = _ENTRY.pack(now if now > 0.0 else 0.0, *_LAST)
            while heap and heap[0] <= latest and len(due) < limit:
                due_at, number, message_id, part = _ENTRY.unpack(heappop(heap))
                if number in self._void:
                    self._void.discard(number)
                    continue
                self._known.discard(number)
                due.append((due_at, message_id, part))
        return due

    def hasten_all(self, latest: float) -> None:
        """Let nothing wait for longer than until `latest`.  Costs O(n) of what waits."""
        heap = self._heap
        for at, packed in enumerate(heap):
            due_at, *rest = _ENTRY.unpack(packed)
            if due_at > latest:
                heap[at] = _ENTRY.pack(latest, *rest)
        heapify(heap)

    @property
    def next_due_at(self) -> float | None:
        """Unix seconds; None when nothing waits.  Nothing is due before it; what was hastened may
        have left it behind."""
        if not self._heap:
            return None
        due_at: float = _ENTRY.unpack(self._heap[0])[0]
        return due_at
