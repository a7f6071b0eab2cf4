"""In memory: what waits, and what is due.  No disk, no clock: `now` is given.

A heap by due time, and a line before it.  Every operation costs O(log n) of what waits, and
taking what is due costs nothing for what is not.
"""

from collections import deque
from heapq import heapify, heappop, heappush
from struct import Struct

from gwrelay.queue.entrywalk import EntryWalk, Marks

#: due_at, running number, message id, part.  The number keeps equal times in the order they were
#: added in: of all that waits for a dead host, another one each time is the first to try it.
#: Big-endian and none below zero, so they sort as bytes as they do as numbers.  A bytes object
#: costs 64 bytes (the tuple and its numbers: 168), and the garbage collector, which would stop
#: the gateway to walk a million tuples, never looks at it.
_ENTRY = Struct(">dQQI")
_LAST = 2**64 - 1, 2**64 - 1, 2**32 - 1

#: Entries that count no more which nobody minds, and how many entries each new one moves while
#: there are more.
_TIDY_ABOVE = 1000
_TIDIED_AT_ONCE = 8

#: (due_at in Unix seconds, message id, part): a part is its first recipient.
Entry = tuple[float, int, int]
#: (number of the entry, message id, part)
Marked = tuple[int, int, int]


class Schedule:
    def __init__(self) -> None:
        # The same containers for life: gc.freeze() at the start takes them, alone, out of every
        # later collection.
        self._heap: list[bytes] = []
        #: Due, and taken before all that is in a heap.
        self._first: deque[bytes] = deque()
        #: No later than any of these, which a clock that is set back may put out of order.
        self._first_due_at = 0.0
        #: A heap as well, from which what still counts moves to the other, a little each time:
        #: see _tidy().  Mostly empty.
        self._old: list[bytes] = []
        self._added = 0
        #: Numbers of entries that hasten() may still find, and of those that it has replaced.
        self._known: set[int] = set()
        self._void: set[int] = set()
        #: What remove() has taken out: (message id, part) -> the number up to which its entries
        #: count no more, and how many of these there are.
        self._removed: dict[tuple[int, int], tuple[int, int]] = {}
        self._removed_entries = 0
        #: While somebody goes through all entries: where, and which parts were met.
        self._walk: EntryWalk | None = None
        self._marks = Marks(0, 0)

    def __len__(self) -> int:
        return len(self._first) + len(self._heap) + len(self._old) - self._uncounted

    @property
    def _uncounted(self) -> int:
        """Entries that are in the way until they are due, or _tidy() meets them."""
        return len(self._void) + self._removed_entries

    def add(self, due_at: float, message_id: int, part: int) -> None:
        """Wait until `due_at` (Unix seconds)."""
        self._added += 1
        due_at = due_at if due_at > 0.0 else 0.0
        if self._walk is not None:
            self._marks.add(message_id, part)
            self._mark_before_push()
        heappush(self._heap, _ENTRY.pack(due_at, self._added, message_id, part))
        if self._old:
            self._tidy()

    def add_first(self, due_at: float, message_id: int, part: int) -> None:
        """Be due at once, ahead of all that add() has: however much of that is due, and since
        when."""
        self._added += 1
        self._first_due_at = min(self._first_due_at, due_at) if self._first else due_at
        if self._walk is not None:
            self._marks.add(message_id, part)
            self._walk.before_append()
        self._first.append(_ENTRY.pack(due_at, self._added, message_id, part))

    def add_known(self, due_at: float, message_id: int, part: int) -> int:
        """Likewise.  → the number by which hasten() finds the entry."""
        self.add(due_at, message_id, part)
        self._known.add(self._added)
        return self._added

    def knows(self, number: int) -> bool:
        """Whether the entry of this number still waits.  True for a while of one that remove()
        has taken out."""
        return number in self._known

    def hasten(self, number: int, due_at: float, message_id: int, part: int) -> bool:
        """Let the entry of this number, of that part, be due at `due_at` instead.  False when it
        does not wait any more."""
        if number not in self._known:
            return False
        self._known.discard(number)
        if self._is_removed(number, message_id, part):
            return False
        self._void.add(number)
        self.add(due_at, message_id, part)
        self._make_way()
        return True

    def remove(self, message_id: int, part: int) -> None:
        """Let the entry of that part, of which there must be one, count no more.

        It stays where it is, for nobody knows where that is, and is passed over when it is met.
        """
        _, entries = self._removed.get((message_id, part), (0, 0))
        self._removed[message_id, part] = self._added, entries + 1
        self._removed_entries += 1
        self._make_way()

    def take_due(self, now: float, limit: int) -> list[Entry]:
        """At most `limit` whose time has come: earliest first, behind those of add_first()."""
        due: list[Entry] = []
        while self._first and len(due) < limit:
            due_at, number, message_id, part = _ENTRY.unpack(self._first.popleft())
            if self._counts(number, message_id, part):
                due.append((due_at, message_id, part))
        heap = self._next_heap()
        if heap:
            latest = _ENTRY.pack(now if now > 0.0 else 0.0, *_LAST)
            while heap and heap[0] <= latest and len(due) < limit:
                due_at, number, message_id, part = _ENTRY.unpack(heappop(heap))
                if self._counts(number, message_id, part):
                    self._known.discard(number)
                    due.append((due_at, message_id, part))
                if self._old or not heap:
                    heap = self._next_heap()
        return due

    def hasten_all(self, latest: float) -> None:
        """Let nothing wait for longer than until `latest`.  Costs O(n) of what waits."""
        for heap in (self._heap, self._old):
            for at, packed in enumerate(heap):
                due_at, *rest = _ENTRY.unpack(packed)
                if due_at > latest:
                    heap[at] = _ENTRY.pack(latest, *rest)
            heapify(heap)
        if self._walk is not None:
            self._walk.begin_again()

    def drop(self, number: int) -> None:
        """Let the entry of this number, which counts, count no more."""
        self._known.discard(number)
        self._void.add(number)
        self._make_way()

    # -- going through all of it ------------------------------------------------------------

    def begin_walk(self, seed: int) -> None:
        """Go through all entries from now on, in steps, while any of them may come and go."""
        self._marks = Marks(len(self._first) + len(self._heap) + len(self._old), seed)
        self._walk = EntryWalk(self._first, (self._heap, self._old))

    def walk_on(self, count: int) -> list[Marked] | None:
        """The next entries that count, `count` at most; None when all were met."""
        some = self._walk.step(count) if self._walk is not None else None
        return None if some is None else self._met(some)

    def is_marked(self, message_id: int, part: int) -> bool:
        """When all were met: whether one of this part was there at any time since the beginning.
        If not, it surely has none; if so, it has one unless it was taken or removed."""
        return self._marks.has(message_id, part)

    def end_walk(self) -> None:
        self._walk = None
        self._marks = Marks(0, 0)

    def _mark_before_push(self) -> None:
        if self._walk is not None and (packed := self._walk.before_push(self._heap)) is not None:
            self._met([packed])

    def _met(self, some: list[bytes]) -> list[Marked]:
        """Those of them that count, marked."""
        found = []
        for _, number, message_id, part in _ENTRY.iter_unpack(b"".join(some)):
            if number in self._void:
                continue
            if self._removed and self._is_removed(number, message_id, part):
                continue
            self._marks.add(message_id, part)
            found.append((number, message_id, part))
        return found

    @property
    def next_due_at(self) -> float | None:
        """Unix seconds; None when nothing waits.  Nothing is due before it; what was hastened may
        have left it behind."""
        heap = self._next_heap()
        earliest = [_ENTRY.unpack(heap[0])[0]] if heap else []
        if self._first:
            earliest.append(self._first_due_at)
        return min(earliest, default=None)

    def _next_heap(self) -> list[bytes]:
        """The one with the earliest entry of all."""
        if self._old and not (self._heap and self._heap[0] < self._old[0]):
            return self._old
        return self._heap

    def _counts(self, number: int, message_id: int, part: int) -> bool:
        """Whether an entry that has left its heap is still one; forgets it if not."""
        if number in self._void:
            self._void.discard(number)
            return False
        if not (self._removed and self._is_removed(number, message_id, part)):
            return True
        up_to, entries = self._removed.pop((message_id, part))
        if entries > 1:
            self._removed[message_id, part] = up_to, entries - 1
        self._removed_entries -= 1
        self._known.discard(number)
        return False

    def _is_removed(self, number: int, message_id: int, part: int) -> bool:
        return number <= self._removed.get((message_id, part), (0, 0))[0]

    def _make_way(self) -> None:
        """Begin to tidy up when more is in the way than counts."""
        if not self._old and self._uncounted > max(_TIDY_ABOVE, len(self)):
            self._heap, self._old = self._old, self._heap

    def _tidy(self) -> None:
        """Take a few entries off the end, where the heap stays one without them: so it costs
        nobody much, however many there are."""
        for _ in range(min(_TIDIED_AT_ONCE, len(self._old))):
            packed = self._old.pop()
            if self._counts(*_ENTRY.unpack(packed)[1:]):
                if self._walk is not None:
                    self._met([packed])
                    self._mark_before_push()
                heappush(self._heap, packed)
