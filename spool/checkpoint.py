"""The checkpoint: the index written aside, so that a start reads it and only the log's tail.

    checkpoint := magic:8  version:u32  tag:8  block*          little-endian, file `checkpoint`
    block      := length:u32  crc:u32  body                    body: length bytes of msgpack
    body       := [1, last_key, rows]                          the first block
                | [2, keys, values]                            living keys, as the index packs them
                | [3, keys, tables]                            chunks of keys, likewise
                | [4, guards]                                  the last block
    row        := [segment, last, serial, end, guards]

`tag` is made of the spool's secret, as a frame's is.  Each crc goes on from the one before, so
that no block can miss, come twice or be out of place.  `rows` says how far each segment was
read: the last frame's offset and serial, and where it ends; the newest row is the position, and
what stands behind it in the log comes after the checkpoint.  Of a segment that is missing, and has
living keys, only the number: it must not pass for one that was removed because they had ended.

Made while the index goes on changing: it may already hold what the tail says, which says it
again.  That the tail is read over it makes both ends meet; `guards` is taken last, for it must
know of all that has ended.  Never the only home of anything: a checkpoint that is damaged,
stale or gone costs a replay.
"""

import contextlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple
from zlib import crc32

import msgpack

from spool import segment as segments
from spool.errors import CorruptFrame
from spool.files import Files

NAME = "checkpoint"
NEW_NAME = "checkpoint.new"
_MAGIC = b"SPOOLCKP"
_VERSION = 1
_START = struct.Struct("<8sI8s")
_BLOCK = struct.Struct("<II")
#: No segment has this number: its tag is free for us.
_TAG_NUMBER = 0
#: Bytes of one block; a length above it is damage.
_LENGTH_LIMIT = 256 * 1024 * 1024
#: Bytes between two syncs of a checkpoint being written, behind which the log's may have to wait.
_SYNC_EVERY = 4 * 1024 * 1024

COVERED, KEYS, CHUNKS, GUARDS = 1, 2, 3, 4

Block = tuple[Any, ...]


class Row(NamedTuple):
    """How far a segment was read; `last` is the offset of frame `serial`, which ends at `end`.

    All of them are 0 for one that is missing.
    """

    segment: int
    last: int
    serial: int
    end: int
    guards: list[int]


class Covered(NamedTuple):
    """What a checkpoint stands for."""

    last_key: int
    rows: dict[int, Row]

    @property
    def position(self) -> Row:
        return self.rows[max(self.rows)]

    @property
    def missing(self) -> set[int]:
        """Segments that were gone, and needed, when it was written."""
        return {number for number, row in self.rows.items() if not row.end}

    def skips(self, segment: int) -> bool:
        """Whether nothing of this segment need be read."""
        return segment < self.position.segment


class Checkpoint:
    """One that was found.  Raises CorruptFrame for what is damaged, OSError."""

    def __init__(self, files: Files, secret: bytes) -> None:
        """CorruptFrame when there is none for a spool with this secret, FileNotFoundError."""
        self._files = files
        self._start = _start(secret)
        self._fd = files.open(NAME)
        try:
            if files.read(self._fd, 0, _START.size) != self._start:
                raise CorruptFrame(None, "no checkpoint of this spool and version")
            first = next(self._blocks(), None)
            if first is None or first[0] != COVERED:
                raise CorruptFrame(_START.size, "no first block")
            _, last_key, rows = first
            self.covered = Covered(last_key, {row[0]: Row(*row) for row in rows})
            if not self.covered.rows:
                raise CorruptFrame(_START.size, "covers nothing")
        except BaseException:
            self.close()
            raise

    def verify(self) -> Iterator[None]:
        """Reads all of it, block by block; runs to its end when it is whole."""
        last = b""
        for body in self._bodies():
            last = body
            yield
        if _decoded(last)[0] != GUARDS:
            raise CorruptFrame(None, "the last block is missing")

    def content(self) -> Iterator[Block]:
        """Every block but the first."""
        blocks = self._blocks()
        next(blocks)
        return blocks

    def close(self) -> None:
        self._files.close_file(self._fd)

    def _blocks(self) -> Iterator[Block]:
        return map(_decoded, self._bodies())

    def _bodies(self) -> Iterator[bytes]:
        at, crc = _START.size, crc32(self._start)
        while head := self._files.read(self._fd, at, _BLOCK.size):
            if len(head) < _BLOCK.size:
                raise CorruptFrame(at, "the checkpoint ends in a block")
            length, expected = _BLOCK.unpack(head)
            body = self._files.read(self._fd, at + len(head), min(length, _LENGTH_LIMIT))
            crc = crc32(body, crc)
            if len(body) != length or crc != expected:
                raise CorruptFrame(at, "checksum mismatch in the checkpoint")
            yield body
            at += len(head) + length


class Writer:
    """A checkpoint in the making; it takes the place of the one there is with finish().

    Every method raises OSError; then, and when it is given up, abandon() it.
    """

    def __init__(self, files: Files, secret: bytes, covered: Covered) -> None:
        if NEW_NAME in files.names():
            files.remove(NEW_NAME)  # what a crash left of one
        self._files = files
        self._fd = files.create(NEW_NAME)
        self._end = self._synced = 0
        self._crc = 0
        self._start = _start(secret)
        self._first = COVERED, covered.last_key, [covered.rows[n] for n in sorted(covered.rows)]

    def add(self, block: Block) -> int:
        """Write one block, and before the first what a checkpoint begins with.  → bytes written."""
        before = self._end
        if not self._end:
            self._files.write_all(self._fd, self._start, 0)
            self._end, self._crc = len(self._start), crc32(self._start)
            self.add(self._first)
        body: bytes = msgpack.packb(block)
        self._crc = crc32(body, self._crc)
        self._files.write_all(self._fd, _BLOCK.pack(len(body), self._crc) + body, self._end)
        self._end += _BLOCK.size + len(body)
        if self._end - self._synced >= _SYNC_EVERY:
            self._files.sync(self._fd)
            self._synced = self._end
        return self._end - before

    def finish(self) -> int:
        """It counts on return.  → its bytes."""
        self._files.sync(self._fd)
        self._files.rename(NEW_NAME, NAME)
        self._files.sync_directory()
        self._files.close_file(self._fd)
        return self._end

    def abandon(self) -> None:
        self._files.close_file(self._fd)
        with contextlib.suppress(OSError):
            if NEW_NAME in self._files.names():  # else it bears its name already
                self._files.remove(NEW_NAME)


def _start(secret: bytes) -> bytes:
    return _START.pack(_MAGIC, _VERSION, segments.tag_of(secret, _TAG_NUMBER))


def _decoded(body: bytes) -> Block:
    try:
        block = tuple(msgpack.unpackb(body))
        if block[0] not in (COVERED, KEYS, CHUNKS, GUARDS):
            raise ValueError("unknown kind")
    except (ValueError, TypeError, LookupError) as error:
        raise CorruptFrame(None, f"not a block of a checkpoint ({error})") from error
    return block
