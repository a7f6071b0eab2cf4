"""The keydir: where each living key's records stand, its newest state, and what is still needed.

No files here.  Rebuilt from the log at each start.  Flat on purpose: a key costs one int, one
dict slot and one bytes object, which the garbage collector never walks.

A segment is needed while it holds living bytes, or while it guards another: a DROP (or a
second PUT) must outlive the segment of the PUT it ends, or a replay would revive the key.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from spool.frame import Amend, AnyRecord, Chunk, Drop, Put


class Place(NamedTuple):
    """A frame in the log.  `offset` and `length` (header included) in bytes."""

    segment: int
    offset: int
    length: int


#: One living key: its PUT's place, the bytes that record keeps alive, the segment of its newest
#: AMEND (0: none yet).  The state follows.
_KEY = struct.Struct("<IIIII")
#: One chunk: place, bytes kept alive.  All zero: not there.
_CHUNK = struct.Struct("<IIII")
#: Bytes a record is charged beside its contents: kind, key, msgpack's own, its share of a frame.
_OVERHEAD = 32


class Index:
    def __init__(self) -> None:
        self._keys: dict[int, bytes] = {}
        self._chunks: dict[int, bytearray] = {}
        self._living: dict[int, int] = {}
        self._guards: dict[int, set[int]] = {}
        self.last_key = 0
        #: Bytes of all living records.
        self.living_bytes = 0

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._keys

    def keys(self) -> list[int]:
        """Living keys, ascending."""
        return sorted(self._keys)

    def place(self, key: int) -> Place:
        """Where the key's PUT stands.  KeyError."""
        return Place(*_KEY.unpack_from(self._keys[key])[:3])

    def state(self, key: int) -> bytes:
        """The newest state.  KeyError."""
        return self._keys[key][_KEY.size :]

    def chunks(self, key: int) -> list[Place | None]:
        """Where chunk 0, 1, ... stand; None for one that is missing."""
        places = [Place(*entry[:3]) for entry in _CHUNK.iter_unpack(self._chunks.get(key, b""))]
        return [place if place.length else None for place in places]

    def chunk(self, key: int, seq: int) -> Place | None:
        """Where one chunk stands."""
        places = self._chunks.get(key, b"")
        if (seq + 1) * _CHUNK.size > len(places):
            return None
        place = Place(*_CHUNK.unpack_from(places, seq * _CHUNK.size)[:3])
        return place if place.length else None

    def apply(self, place: Place, batch: Sequence[AnyRecord]) -> None:
        """What the frame at `place` says.  In the order of the log."""
        for record in batch:
            if type(record) is Put:
                self._put(place, record)
            elif type(record) is Amend:
                self._amend(place.segment, record)
            elif type(record) is Drop:
                self._drop(place.segment, record.key)
            elif type(record) is Chunk:
                self._chunk(place, record)

    def forget_orphans(self) -> None:
        """Chunks without a PUT.  After a replay nobody is left to write it."""
        for key in self._chunks.keys() - self._keys.keys():
            self.forget_chunks(key)

    def forget_chunks(self, key: int) -> None:
        for segment, _, _, size in _CHUNK.iter_unpack(self._chunks.pop(key, b"")):
            self._charge(segment, -size)

    def needs(self, place: Place, record: AnyRecord) -> bool:
        """Whether the log must not lose `record`, which stands in the frame at `place`."""
        if type(record) is Drop:
            return record.key not in self._keys and bool(self._guards.get(place.segment))
        if type(record) is Chunk:
            return self.chunk(record.key, record.seq) == place
        known = self._keys.get(record[0])
        if known is None:
            return False
        *put, _, amended_in = _KEY.unpack_from(known)
        if type(record) is Put:
            return Place(*put) == place
        return type(record) is Amend and amended_in == place.segment

    def living_in(self, segment: int) -> int:
        """Bytes of living records there."""
        return self._living.get(segment, 0)

    def is_needed(self, segment: int, present: Iterable[int]) -> bool:
        """May `segment` not be removed?  `present` are the segments there are."""
        if self._living.get(segment, 0):
            return True
        return not self._guards.get(segment, set()).isdisjoint(present)

    def inherit(self, segment: int, former: int) -> None:
        """What ends keys in `former` was copied to `segment`, which guards what that guarded."""
        guarded = self._guards.get(former)
        if guarded:
            self._guards.setdefault(segment, set()).update(guarded)

    def forget_segment(self, segment: int) -> None:
        """It was removed.  Who ended a key in it ended all earlier copies of that key, too."""
        self._living.pop(segment, None)
        guarded = self._guards.pop(segment, None)
        for others in self._guards.values():
            if segment in others:
                others.remove(segment)
                others.update(guarded or ())

    def _put(self, place: Place, put: Put) -> None:
        key = put.key
        before = self._keys.get(key)
        if before is not None:
            self._end(place.segment, before)
        size = len(put.state) + len(put.head) + len(put.body) + _OVERHEAD
        self._keys[key] = _KEY.pack(*place, size, 0) + put.state
        self._charge(place.segment, size)
        if key > self.last_key:
            self.last_key = key

    def _amend(self, segment: int, amend: Amend) -> None:
        before = self._keys.get(amend.key)
        if before is None:
            return
        *put, amended_in = _KEY.unpack_from(before)
        if amended_in:
            self._charge(amended_in, _KEY.size - _OVERHEAD - len(before))
        self._keys[amend.key] = _KEY.pack(*put, segment) + amend.state
        self._charge(segment, len(amend.state) + _OVERHEAD)

    def _drop(self, segment: int, key: int) -> None:
        before = self._keys.pop(key, None)
        if before is not None:
            self._end(segment, before)
        if key in self._chunks:
            self.forget_chunks(key)
        if key > self.last_key:
            self.last_key = key

    def _end(self, segment: int, before: bytes) -> None:
        """A record in `segment` ends the PUT, and the AMEND if any, that `before` describes."""
        put_in, _, _, size, amended_in = _KEY.unpack_from(before)
        self._charge(put_in, -size)
        if amended_in:
            self._charge(amended_in, _KEY.size - _OVERHEAD - len(before))
        if put_in != segment:
            self._guards.setdefault(segment, set()).add(put_in)

    def _chunk(self, place: Place, chunk: Chunk) -> None:
        places = self._chunks.setdefault(chunk.key, bytearray())
        at = chunk.seq * _CHUNK.size
        if len(places) < at + _CHUNK.size:
            places.extend(bytes(at + _CHUNK.size - len(places)))
        replaced_in, _, _, replaced = _CHUNK.unpack_from(places, at)
        self._charge(replaced_in, -replaced)
        size = len(chunk.piece) + _OVERHEAD
        _CHUNK.pack_into(places, at, *place, size)
        self._charge(place.segment, size)
        if chunk.key > self.last_key:
            self.last_key = chunk.key

    def _charge(self, segment: int, size: int) -> None:
        self._living[segment] = self._living.get(segment, 0) + size
        self.living_bytes += size
