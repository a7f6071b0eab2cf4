"""Bad-host marks that hold for all workers of a gateway together: what Marks (mx/marks.py) may keep
them in.

    marks := key * n  set_at * n  until * n  length * n  newest * workers  text:256 bytes * n
    text  := place:104 bytes  why:152 bytes                     each padded with zeros

In memory that their supervisor makes and all workers inherit; nothing of it outlives them.  How
rows are found, and who may change one, is said in rows.py.  Times are of the owner's clock.
"""

import mmap
import os
from collections.abc import Callable, Iterator, MutableMapping
from functools import lru_cache

from gwrelay.relay.rows import CELL_BYTES, WINDOW, Busy, Rows, key_of

#: As Marks has them: source and address; when it was set, until when, its length, why.
Place = tuple[str, str]
Mark = tuple[float, float, float, str]

#: Rows there are, a power of two: a quarter of them may well be marked.
MARKS = 1 << 14
#: Two addresses of IPv6 with a scope, and a port.
_PLACE_BYTES = 104
#: A reply of some length: what does not fit is cut.
_WHY_BYTES = 152
_TEXT_BYTES = _PLACE_BYTES + _WHY_BYTES
_FIELDS = 4


def new_marks(workers: int, capacity: int = MARKS) -> int:
    """A descriptor for NodeMarks, of a file that has no name."""
    descriptor = os.memfd_create("gwrelay-marks")
    os.ftruncate(descriptor, _bytes(workers, capacity))
    return descriptor


def _bytes(workers: int, capacity: int) -> int:
    rows = capacity + WINDOW
    return (_FIELDS * rows + workers) * CELL_BYTES + rows * _TEXT_BYTES


class NodeMarks(MutableMapping[Place, Mark]):
    """In place of the dict Marks.held, for worker `number` (from 0, of `workers`).

    True as long as any mark may be worth a look: until `remembered_s` after the end of the last.
    A mark that finds no row is this worker's own.
    """

    def __init__(
        self,
        descriptor: int,
        workers: int,
        number: int,
        remembered_s: float,
        clock: Callable[[], float],
        capacity: int = MARKS,
    ) -> None:
        size = capacity + WINDOW
        memory = memoryview(mmap.mmap(descriptor, _bytes(workers, capacity)))
        cells = (_FIELDS * size + workers) * CELL_BYTES
        integers, reals = memory[:cells].cast("Q"), memory[:cells].cast("d")
        self._keys = integers[:size]
        self._rows = Rows(self._keys, capacity, descriptor)
        self._set_at, self._until, self._length = (
            reals[n * size : (n + 1) * size] for n in range(1, _FIELDS)
        )
        self._newest = reals[_FIELDS * size :]
        self._texts = memory[cells:]
        self._number = number
        self._remembered_s = remembered_s
        self._clock = clock
        self._own: dict[Place, Mark] = {}

    def __bool__(self) -> bool:
        return max(self._newest) + self._remembered_s > self._clock()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Place]:
        """Those that are remembered; such as come or go meanwhile may be left out."""
        now = self._clock()
        for row, key in enumerate(self._keys.tolist()):
            if key and not self._is_free(row, now):
                place = self._place(row)
                if place is not None and _key(place) == key:  # else it was another's just now
                    yield place
        yield from list(self._own)

    def __getitem__(self, place: Place) -> Mark:
        key = _key(place)
        row = self._rows.find(key)
        if row is not None:
            mark = self._set_at[row], self._until[row], self._length[row], self._why(row)
            if mark[1] and self._keys[row] == key:
                return mark
        return self._own[place]

    def __setitem__(self, place: Place, mark: Mark) -> None:
        self._newest[self._number] = max(self._newest[self._number], mark[1])
        now = self._clock()
        octets = "\0".join(place).encode()
        try:
            with self._rows.claimed(_key(place), lambda row: self._is_free(row, now)) as row:
                at = row * _TEXT_BYTES
                self._write(at, _PLACE_BYTES, octets)
                self._write(at + _PLACE_BYTES, _WHY_BYTES, mark[3].encode())
                self._set_at[row], self._until[row], self._length[row] = mark[:3]
                self._own.pop(place, None)
        except Busy:
            self._own[place] = mark

    def __delitem__(self, place: Place) -> None:
        self[place]  # KeyError where there is none
        self._own.pop(place, None)
        try:
            with self._rows.claimed(_key(place), lambda _row: False) as row:
                self._until[row] = 0.0
        except Busy:
            return  # it is gone already, or comes to its end by itself

    def _is_free(self, row: int, now: float) -> bool:
        until = self._until[row]
        return not until or until + self._remembered_s <= now

    def _place(self, row: int) -> Place | None:
        at = row * _TEXT_BYTES
        source, zero, address = bytes(self._texts[at : at + _PLACE_BYTES]).partition(b"\0")
        if not zero:
            return None
        return source.decode("utf-8", "replace"), address.rstrip(b"\0").decode("utf-8", "replace")

    def _why(self, row: int) -> str:
        at = row * _TEXT_BYTES + _PLACE_BYTES
        return bytes(self._texts[at : at + _WHY_BYTES]).rstrip(b"\0").decode("utf-8", "ignore")

    def _write(self, at: int, size: int, octets: bytes) -> None:
        self._texts[at : at + size] = octets[:size].ljust(size, b"\0")


@lru_cache(maxsize=16_384)
def _key(place: Place) -> int:
    return key_of(place)
