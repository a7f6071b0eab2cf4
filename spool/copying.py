"""What compaction does to the log: copies of what is needed of a segment, then its release.

A copy says what is newest of its key, on its way into the log or there already.  That is found
and handed in with the lock in hand, so that whatever is written of the key afterwards comes
behind the copy in the log, too.
"""

from collections.abc import Iterator, Sequence

from spool.commit import Committer
from spool.compact import Frame, Usage
from spool.counters import Counters
from spool.entry import Entry
from spool.frame import AnyRecord, Chunk, Drop, Seal
from spool.index import Index
from spool.log import Log
from spool.unlanded import Unlanded
from spool.waiting import Lock


class Copying:
    """The Source of a Compactor."""

    def __init__(
        self,
        log: Log,
        index: Index,
        unlanded: Unlanded,
        committer: Committer,
        lock: Lock,
        counters: Counters,
    ) -> None:
        self._log = log
        self._index = index
        self._unlanded = unlanded
        self._committer = committer
        self._lock = lock
        self._counters = counters

    def usage(self) -> list[Usage]:
        sealed = self._log.removable()
        with self._lock:
            return [Usage(n, self._log.used_bytes(n), self._index.living_in(n)) for n in sealed]

    def frames(self, number: int) -> Iterator[Frame]:
        return self._log.frames(number)

    def copy(self, frames: Sequence[Frame]) -> int:
        """One frame for each record, so that later damage to one costs no other."""
        self._counters.compacted_read_bytes += sum(place.length for place, _ in frames)
        with self._lock:
            entries = self._entries(frames)
            for entry in entries:
                group = self._committer.gather(entry)
                self._unlanded.add(entry)
        if not entries:
            return 0
        self._committer.see_through(group)
        for entry in entries:
            if entry.error is not None:
                raise entry.error
        self._note_ends(frames[0][0].segment, entries)
        copied = sum(entry.size for entry in entries)
        self._counters.compacted_bytes += copied
        return copied

    def release(self, number: int) -> bool:
        # What ends the rest may be on its way.
        self._committer.flush()
        if number not in self._log.removable():
            return True  # all the rest has died meanwhile, and it was removed for that
        with self._lock:
            if self._index.living_in(number):
                return False
        gone = self._log.remove([number])
        with self._lock:
            for one in gone:
                self._index.forget_segment(one)
        self._counters.compacted_segments += 1
        return True

    def _entries(self, frames: Sequence[Frame]) -> list[Entry]:
        copies: dict[tuple[type, int, int], AnyRecord] = {}
        for place, batch in frames:
            for record in batch:
                if self._index.needs(place, record):
                    # An AMEND follows a PUT or another AMEND, and all their copies say the newest.
                    copy = self._newest(record)
                    if copy is not None:
                        copies[type(copy), copy[0], copy[1] if type(copy) is Chunk else 0] = copy
        beside = self._unlanded.beside
        return [Entry([copy, *beside([copy])], copies=True) for copy in copies.values()]

    def _newest(self, record: AnyRecord) -> AnyRecord | None:
        """`record` as its copy must be; None when its key is just ending."""
        if isinstance(record, Drop | Seal):
            return record
        newest = self._unlanded.newest(record.key)
        if isinstance(newest, Drop):
            return None
        if isinstance(record, Chunk):
            return record
        state = self._index.state(record.key) if newest is None else newest.state
        return record._replace(state=state)

    def _note_ends(self, victim: int, entries: Sequence[Entry]) -> None:
        """Where copies of DROPs stand, what their originals guarded is guarded now."""
        with self._lock:
            for entry in entries:
                if type(entry.batch[0]) is Drop:
                    self._index.inherit(entry.segment, victim)
