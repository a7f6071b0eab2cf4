"""Once through the entries of a schedule, in steps, while others come and go.  Pure.

The walk goes from the end of the line, and of each heap, to its start.  Taking an entry moves
others towards the start only, where the walk is still to come.  Adding one to a heap moves its
ancestors towards the end, each into its child's place; the one of them that would step over the
place reached is met before it does.  So whatever is there from the beginning of the walk to its
end is met, at least once.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice

#: Bits of the marks for each entry that is expected.  One part in as many passes for marked though
#: it is not; at the next walk it is another one.
_BITS_EACH = 32
_LEAST_BITS = 1 << 16


class Marks:
    """Which parts were met: all that were, and hardly any other, in a few bytes each."""

    def __init__(self, expected: int, seed: int) -> None:
        """With another `seed` others share a bit."""
        self._mask = (1 << max(_LEAST_BITS, expected * _BITS_EACH).bit_length()) - 1
        self._seed = seed
        self._bits = bytearray((self._mask + 1) // 8)

    def add(self, message_id: int, part: int) -> None:
        bit = hash((message_id, part, self._seed)) & self._mask
        self._bits[bit >> 3] |= 1 << (bit & 7)

    def has(self, message_id: int, part: int) -> bool:
        bit = hash((message_id, part, self._seed)) & self._mask
        return bool(self._bits[bit >> 3] & 1 << (bit & 7))


class EntryWalk:
    def __init__(self, line: deque[bytes], heaps: Sequence[list[bytes]]) -> None:
        self._line = line
        #: Entries at its end that are not to come any more.
        self._behind = 0
        self._heaps = heaps
        self.begin_again()

    def begin_again(self) -> None:
        """Everything in the heaps may be in another place than before."""
        self._to_come = list(self._heaps)
        self._heap = self._to_come.pop()
        #: Of the present heap, the entries that are to come are those in the places below.
        self._left = len(self._heap)

    def step(self, count: int) -> list[bytes] | None:
        """The next entries, at most `count`; None when all were met.  One may come twice."""
        if self._behind < len(self._line):
            some = list(islice(reversed(self._line), self._behind, self._behind + count))
            self._behind += len(some)
            return some
        while True:
            if left := self._left:
                self._left = max(0, left - count)
                # Fewer, perhaps none, where taking has made it shorter.
                return self._heap[self._left : left]
            if not self._to_come:
                return None
            self._heap = self._to_come.pop()
            self._left = len(self._heap)

    def before_append(self) -> None:
        """The line is about to get one more, which is not met."""
        self._behind += 1

    def before_push(self, heap: list[bytes]) -> bytes | None:
        """`heap` is about to get one more.  → an entry that is met now, for it may move out of
        the walk's way; the new one is not met."""
        if heap is not self._heap:
            return None
        place = len(heap)
        self._left = min(self._left, place)
        while place >= self._left:
            place = (place - 1) >> 1
            if place < 0:
                return None
        return heap[place]
