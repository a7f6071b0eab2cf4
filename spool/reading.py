"""Reading records back, though compaction moves them and their segments are used again."""

from collections.abc import Callable, Iterator

from spool.errors import CorruptFrame, SpoolError, SpoolFailed
from spool.frame import AnyRecord, Chunk, Put
from spool.index import Index, Place
from spool.log import Log
from spool.unlanded import Unlanded
from spool.waiting import Lock


class Reader:
    """Every method raises KeyError for a key that has ended, CorruptFrame for what is damaged,
    SpoolFailed when the disk does not give it out now."""

    def __init__(self, log: Log, index: Index, unlanded: Unlanded, lock: Lock) -> None:
        self._log = log
        self._index = index
        self._unlanded = unlanded
        self._lock = lock
        #: What was read last, until it is asked for again: most of those who have read a head want
        #: the body next.
        self._last: Put | None = None

    def put(self, key: int) -> Put:
        with self._lock:
            pending = self._unlanded.put(key)
            if pending is not None:
                return pending
            self._index.place(key)  # KeyError when it has ended
        last = self._last
        if last is not None and last.key == key:
            self._last = None
            return last
        for record in self._frame(lambda: self._index.place(key)):
            if type(record) is Put and record.key == key:
                self._last = record
                return record
        raise CorruptFrame(None, f"no record of key {key} where it should be")

    def body(self, key: int) -> Iterator[bytes]:
        """The pieces in order, each verified before it is given out.  Raises at once for one that
        is known to be missing, and between two pieces for one that is damaged."""
        put = self.put(key)
        for seq in range(put.chunks):
            with self._lock:
                self._chunk_place(key, seq)
        return self._pieces(put)

    def _pieces(self, put: Put) -> Iterator[bytes]:
        for seq in range(put.chunks):
            yield self._chunk(put.key, seq).piece
        yield put.body

    def _chunk(self, key: int, seq: int) -> Chunk:
        for record in self._frame(lambda: self._chunk_place(key, seq)):
            if type(record) is Chunk and record.key == key and record.seq == seq:
                return record
        raise CorruptFrame(None, f"no chunk {seq} of key {key} where it should be")

    def _chunk_place(self, key: int, seq: int) -> Place:
        self._index.place(key)  # KeyError when it has ended
        place = self._index.chunk(key, seq)
        if place is None:
            raise CorruptFrame(None, f"key {key} misses chunk {seq}")
        return place

    def _frame(self, where: Callable[[], Place]) -> list[AnyRecord]:
        """The frame that stands `where` it says; asked again when it is not there (any more)."""
        place = self._ask(where)
        while True:
            try:
                return self._log.read(place)
            except (CorruptFrame, LookupError, OSError) as error:
                now = self._ask(where)
                if now == place:
                    if isinstance(error, CorruptFrame):
                        raise
                    raise _verdict(place, error) from error
                place = now

    def _ask(self, where: Callable[[], Place]) -> Place:
        with self._lock:
            return where()


def _verdict(place: Place, error: LookupError | OSError) -> SpoolError:
    if isinstance(error, FileNotFoundError | LookupError):
        return CorruptFrame(None, f"segment {place.segment} is missing")
    return SpoolFailed(f"cannot read segment {place.segment}: {error}")
