"""The keydir: where each living key's records stand, its newest state, and what is still needed.

No files here.  Rebuilt from the log at each start.  Flat on purpose: a key costs one int, one
dict slot and one bytes object, which the garbage collector never walks.

A segment is needed while it holds living bytes, or while it guards another: a DROP (or a
second PUT) must outlive the segment of the PUT it ends, or a replay would revive the key.
"""

import struct
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from spool.checkpoint import CHUNKS, GUARDS, KEYS, Block
from spool.frame import Amend, AnyRecord, Chunk, Drop, Put
from spool.keydir import Keydir, last_beside


class Place(NamedTuple):
    """A frame in the log.  `offset` and `length` (header included) in bytes."""

    segment: int
    offset: int
    length: int


#: One living key: its PUT's place, the bytes that record keeps alive, the segment of its newest
#: AMEND (0: none yet).  The state follows.
_KEY = struct.Struct("<IIIII")
_pack = _KEY.pack
#: One chunk: place, bytes kept alive.  All zero: not there.
_CHUNK = struct.Struct("<IIII")
#: Bytes a record is charged beside its contents: kind, key, msgpack's own, its share of a frame.
_OVERHEAD = 32


#: Above every key.
ANY_KEY = 1 << 64
#: Keys in one block of a checkpoint, and in one step of whatever goes through all of them.
SLICE_KEYS = 2000


class Index:
    """While a checkpoint is being admitted, what the log's tail says of keys that are still to
    come is kept for them: see expect() and admit()."""

    def __init__(self) -> None:
        self._keys = Keydir()
        self._chunks: dict[int, bytearray] = {}
        #: Bytes of living records, by segment.
        self._living: defaultdict[int, int] = defaultdict(int)
        self._guards: dict[int, set[int]] = {}
        self.last_key = 0
        #: Keys up to this one may still be admitted; 0: none.
        self._expected = 0
        #: Of such keys: (segment, record) of each AMEND and DROP.
        self._early: dict[int, list[tuple[int, Amend | Drop]]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._keys

    @property
    def living_bytes(self) -> int:
        """Bytes of all living records."""
        return sum(self._living.values())

    def slices(self) -> Iterator[list[int]]:
        """Living keys, ascending, list by list, each as it is when it is asked for."""
        return self._keys.slices(SLICE_KEYS)

    def place(self, key: int) -> Place:
        """Where the key's PUT stands.  KeyError."""
        return Place(*_KEY.unpack_from(self._keys[key])[:3])

    def state(self, key: int) -> bytes:
        """The newest state.  KeyError."""
        return self._keys[key][_KEY.size :]

    def states(self, keys: Iterable[int]) -> list[tuple[int, bytes]]:
        """(key, newest state) of those that live."""
        found = [(key, self._keys.get(key)) for key in keys]
        return [(key, packed[_KEY.size :]) for key, packed in found if packed is not None]

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

    def forget_orphans(self, last_key: int) -> None:
        """Chunks without a PUT, of keys up to `last_key`.  After a replay nobody is left to write
        it."""
        # Not the difference of the two: that goes through all the keys.
        orphans = [key for key in self._chunks if key <= last_key and key not in self._keys]
        for key in orphans:
            self.forget_chunks(key)

    # -- checkpoints ---------------------------------------------------------------------

    def dump(self) -> Iterator[Block]:
        """The blocks of a checkpoint, keys ascending, each as it is when it is asked for."""
        for keys in self.slices():
            yield KEYS, keys, [self._keys[key] for key in keys]
        keys = list(self._chunks)
        for start in range(0, len(keys), SLICE_KEYS):
            some = [key for key in keys[start : start + SLICE_KEYS] if key in self._chunks]
            yield CHUNKS, some, [bytes(self._chunks[key]) for key in some]
        yield GUARDS, [(segment, sorted(guarded)) for segment, guarded in self._guards.items()]

    def expect(self, last_key: int) -> None:
        """Keys up to `last_key` will be admitted later."""
        self._expected = last_key

    def admit(self, block: Block, present: Container[int]) -> list[int]:
        """Take in a block of a checkpoint.  What was applied before came after it in the log.

        → the keys that live by it.  A key whose PUT is in no segment of `present` does not: the
        segment was removed because the key had ended, and then its end may be gone as well.
        """
        kind, *content = block
        if kind == KEYS:
            return self._admit_keys(content[0], content[1], present)
        if kind == CHUNKS:
            for key, table in zip(*content, strict=True):
                self._admit_chunks(key, table)
        elif kind == GUARDS:
            for segment, guarded in content[0]:
                self._guards.setdefault(segment, set()).update(guarded)
        return []

    def expect_no_more(self, present: Iterable[int]) -> None:
        """Everything was admitted; `present` are the segments there are."""
        self._expected = 0
        self._early.clear()
        there = set(present)
        self._guards = {n: guarded & there for n, guarded in self._guards.items() if n in there}

    def _admit_keys(
        self, keys: list[int], values: list[bytes], present: Container[int]
    ) -> list[int]:
        known, early, unpack = self._keys, self._early, _KEY.unpack_from
        admitted = []
        charges: dict[int, int] = {}
        table: dict[int, bytes] = {}
        last = -1
        # A million keys, in their order, go through here before a start is over: nothing is called
        # for most.
        for key, packed in zip(keys, values, strict=True):
            put_in, _, _, size, amended_in = unpack(packed)
            if key > last:
                table, last = known.table(key), last_beside(key)
            if key in table:
                self._supersede(key, put_in)
                continue
            if put_in not in present:
                continue
            table[key] = packed
            charges[put_in] = charges.get(put_in, 0) + size
            if amended_in:
                amended = len(packed) - _KEY.size + _OVERHEAD
                charges[amended_in] = charges.get(amended_in, 0) + amended
            admitted.append(key)
        for segment, size in charges.items():
            self._living[segment] += size
        if not early:
            return admitted
        for key in admitted:
            self._catch_up(key)
        return [key for key in admitted if key in known]

    def _supersede(self, key: int, put_in: int) -> None:
        """The PUT of `key` in the segment `put_in` is older than the one that is known."""
        newer_in = _KEY.unpack_from(self._keys[key])[0]
        if newer_in != put_in:
            self._guards.setdefault(newer_in, set()).add(put_in)

    def _catch_up(self, key: int) -> None:
        """What was said of `key` before it was admitted."""
        for segment, record in self._early.pop(key, ()):
            if type(record) is Amend:
                self._amend(segment, record)
            elif (ended := self._keys.pop(key)) is not None:
                self._end(segment, ended)

    def _admit_chunks(self, key: int, table: bytes) -> None:
        if key not in self._keys:
            return
        known = self._chunks.setdefault(key, bytearray())
        known.extend(bytes(max(0, len(table) - len(known))))
        for at in range(0, len(table), _CHUNK.size):
            segment, _, length, size = _CHUNK.unpack_from(table, at)
            if length and not _CHUNK.unpack_from(known, at)[2]:
                known[at : at + _CHUNK.size] = table[at : at + _CHUNK.size]
                self._living[segment] += size

    def forget_chunks(self, key: int) -> None:
        for segment, _, _, size in _CHUNK.iter_unpack(self._chunks.pop(key, b"")):
            self._living[segment] -= size

    def segments_needed(self) -> set[int]:
        """Those that hold living bytes."""
        return {segment for segment, size in self._living.items() if size > 0}

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

    def rests_on(self, key: int, segment: int) -> bool:
        """Whether the key's PUT or one of its chunks stands in `segment`."""
        known = self._keys.get(key)
        places = [] if known is None else [Place(*_KEY.unpack_from(known)[:3]), *self.chunks(key)]
        return any(place is not None and place.segment == segment for place in places)

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
        key, state, head, body, _ = put
        segment, offset, length = place
        table = self._keys.table(key)
        if key in table:
            self._end(segment, table[key])
        size = len(state) + len(head) + len(body) + _OVERHEAD
        table[key] = _pack(segment, offset, length, size, 0) + state
        self._living[segment] += size
        if key > self.last_key:
            self.last_key = key

    def _amend(self, segment: int, amend: Amend) -> None:
        key, state = amend
        table = self._keys.find(key)
        before = None if table is None else table.get(key)
        if table is None or before is None:
            if key <= self._expected:
                self._early.setdefault(key, []).append((segment, amend))
            return
        put_in, offset, length, size, amended_in = _KEY.unpack_from(before)
        if amended_in:
            self._living[amended_in] += _KEY.size - _OVERHEAD - len(before)
        table[key] = _KEY.pack(put_in, offset, length, size, segment) + state
        self._living[segment] += len(state) + _OVERHEAD

    def _drop(self, segment: int, key: int) -> None:
        if key <= self._expected:
            self._early.setdefault(key, []).append((segment, Drop(key)))
        before = self._keys.pop(key)
        if before is not None:
            self._end(segment, before)
        if key in self._chunks:
            self.forget_chunks(key)
        if key > self.last_key:
            self.last_key = key

    def _end(self, segment: int, before: bytes) -> None:
        """A record in `segment` ends the PUT, and the AMEND if any, that `before` describes."""
        put_in, _, _, size, amended_in = _KEY.unpack_from(before)
        self._living[put_in] -= size
        if amended_in:
            self._living[amended_in] += _KEY.size - _OVERHEAD - len(before)
        if put_in != segment:
            self._guards.setdefault(segment, set()).add(put_in)

    def _chunk(self, place: Place, chunk: Chunk) -> None:
        places = self._chunks.setdefault(chunk.key, bytearray())
        at = chunk.seq * _CHUNK.size
        if len(places) < at + _CHUNK.size:
            places.extend(bytes(at + _CHUNK.size - len(places)))
        replaced_in, _, _, replaced = _CHUNK.unpack_from(places, at)
        self._living[replaced_in] -= replaced
        size = len(chunk.piece) + _OVERHEAD
        _CHUNK.pack_into(places, at, *place, size)
        self._living[place.segment] += size
        if chunk.key > self.last_key:
            self.last_key = chunk.key


def states_in(block: Block) -> Iterator[tuple[int, int, bytes]]:
    """(key, segment that tells it, newest state) of a checkpoint's block of keys."""
    for key, packed in zip(*block[1:], strict=True):
        put_in, _, _, _, amended_in = _KEY.unpack_from(packed)
        yield key, amended_in or put_in, packed[_KEY.size :]
