"""One batch of the spool log, as bytes.  No files here; see segment.py and FORMAT.rst.

    frame := tag:8  serial:u32  length:u32  crc:u32  body      little-endian, 20 + length bytes
    body  := msgpack [[kind, field, ...], ...]                 fixed positions, see _SHAPES

A frame is one batch, applied whole or not at all.  `length` counts the body alone.  `crc` is
zlib.crc32 of body, tag, serial and length, in this order, so that the expensive part is done
before it is known which segment the frame goes to.  `tag` belongs to one life of one segment.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

import msgpack

from spool.errors import CorruptFrame


class Put(NamedTuple):
    """A new living key.  With `chunks` > 0 the body is CHUNK 0..chunks-1 and then `body`."""

    key: int
    state: bytes
    head: bytes
    body: bytes
    chunks: int = 0


class Amend(NamedTuple):
    """The key's newest state.  Without effect on a key that does not live."""

    key: int
    state: bytes


class Drop(NamedTuple):
    """The key's end, and that of its chunks, also when its Put never came."""

    key: int


class Chunk(NamedTuple):
    """A piece of a large body, written before the Put that counts it."""

    key: int
    seq: int
    piece: bytes


class Seal(NamedTuple):
    """Written by the log itself: `segment` ends with frame `serial`, at `end` (bytes).

    `refused` is 1 when what may stand behind was refused to its writer, else 0.  No key in the
    segments before this record's is above `last_key`.
    """

    segment: int
    serial: int
    end: int
    refused: int
    last_key: int


Record = Put | Amend | Drop | Chunk
AnyRecord = Record | Seal


class Frame(NamedTuple):
    """A frame that verified; `end` is the offset just past it."""

    serial: int
    batch: list[AnyRecord]
    end: int


HEADER = struct.Struct("<8sIII")
_PREFIX = struct.Struct("<8sII")

#: Bytes of one body.  A length above it is damage, and nothing is allocated for it.  Large
#: contents come in chunks, so that this bounds what replay holds in memory.
LENGTH_LIMIT = 256 * 1024 * 1024

#: Records in one frame; likewise a bound for the reader.
BATCH_LIMIT = 65_535

#: Chunks of one key.  The index keeps an array of them, which damage must not make huge.
CHUNK_LIMIT = 65_536

_SHAPES: dict[int, tuple[type[AnyRecord], tuple[type, ...]]] = {
    1: (Put, (int, int, bytes, bytes, bytes, int)),
    2: (Amend, (int, int, bytes)),
    3: (Drop, (int, int)),
    4: (Chunk, (int, int, int, bytes)),
    5: (Seal, (int, int, int, int, int, int)),
}
#: A new packer costs a third of what packing 4 KiB does: one serves all.
_packer = msgpack.Packer(autoreset=True)
#: Bytes it may keep for the next time.
_PACKED_BYTES = 4 * 1024 * 1024
#: A NamedTuple from its fields.  Calling the class is Python of its own, and a start reads millions
#: of them.
_new = tuple.__new__
_KINDS = {record: (kind, shape[1:]) for kind, (record, shape) in _SHAPES.items()}


def encode(batch: Sequence[AnyRecord]) -> bytes:
    """The body of a frame.  TypeError or ValueError for what decode() would not take back."""
    rows = []
    for record in batch:
        kind, shape = _KINDS[type(record)]
        if tuple(map(type, record)) != shape:
            raise TypeError(f"{type(record).__name__} has a field of the wrong type")
        if type(record) is Chunk and not 0 <= record.seq < CHUNK_LIMIT:
            raise ValueError(f"chunk {record.seq} is not in 0..{CHUNK_LIMIT - 1}")
        rows.append((kind, *record))
    body: bytes = _packer.pack(rows)
    if len(body) > _PACKED_BYTES:
        _renew_packer()
    if len(rows) > BATCH_LIMIT or len(body) > LENGTH_LIMIT:
        raise ValueError(f"{len(rows)} records, {len(body)} bytes: too much for one frame")
    return body


def _renew_packer() -> None:
    global _packer
    _packer = msgpack.Packer(autoreset=True)


def header(tag: bytes, serial: int, length: int, body_crc: int) -> bytes:
    """What stands before a body of `length` bytes whose zlib.crc32 is `body_crc`."""
    prefix = _PREFIX.pack(tag, serial, length)
    return prefix + crc32(prefix, body_crc).to_bytes(4, "little")


def size_at(buffer: bytes, offset: int) -> int:
    """Bytes the frame at `offset` claims to have, header included; unverified."""
    if len(buffer) - offset < HEADER.size:
        return HEADER.size
    length: int = HEADER.unpack_from(buffer, offset)[2]
    return HEADER.size + length


def decode(buffer: bytes, offset: int, tag: bytes) -> Frame | None:
    """Read the frame that starts at `offset` (bytes).

    None if the buffer ends inside the frame.  Whether that is a torn tail or only the end of
    what was read, the caller knows.  Raises CorruptFrame(offset) for anything else that is not
    a frame with this tag.  Never skips ahead: resynchronising is segment.scan()'s decision.
    """
    start = offset + HEADER.size
    if len(buffer) < start:
        return None
    seen, serial, length, crc = HEADER.unpack_from(buffer, offset)
    if seen != tag:
        raise CorruptFrame(offset, "no frame of this segment")
    if length > LENGTH_LIMIT:
        raise CorruptFrame(offset, f"impossible length {length}")
    end = start + length
    if len(buffer) < end:
        return None
    body = buffer[start:end]
    if crc32(buffer[offset : offset + _PREFIX.size], crc32(body)) != crc:
        raise CorruptFrame(offset, "checksum mismatch")
    return _new(Frame, (serial, _batch(body, offset), end))


def _batch(body: bytes, offset: int) -> list[AnyRecord]:
    """The records.  A body that verified and is junk all the same is damage like any other."""
    try:
        # Binary, lists and numbers are all there is: extensions, maps and text are bounded away.
        # Text of no length passes the bounds, and then fails its shape.
        rows = msgpack.unpackb(
            body, max_array_len=BATCH_LIMIT, max_str_len=0, max_map_len=0, max_ext_len=0
        )
        return [_record(row) for row in rows]
    except (ValueError, TypeError, LookupError) as error:
        raise CorruptFrame(offset, f"not a batch of records ({error})") from error


def _record(row: list[Any]) -> AnyRecord:
    record, shape = _SHAPES[row[0]]
    if tuple(map(type, row)) != shape:
        raise ValueError("fields of the wrong type")
    if record is Chunk and not 0 <= row[2] < CHUNK_LIMIT:
        raise ValueError("chunk number out of bounds")
    return _new(record, row[1:])
