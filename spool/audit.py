"""A spool as it stands: what is in it, what lives, what is damaged.  For people and their tools.

All of the log is read, what a checkpoint covers as well; the checkpoint adds the keys of which
the log has lost the PUT, and which a start holds for living all the same.

Changes nothing (see viewing.py), and works while a process has the spool: what that one writes
meanwhile is partly seen, and what it is just writing is no damage.  Memory as a start takes it.
"""

import logging
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgpack

from spool import segment as segments
from spool.checkpoint import KEYS, Checkpoint
from spool.errors import CorruptFrame
from spool.frame import HEADER, AnyRecord, Chunk, Drop, Put, Seal, decode
from spool.index import ANY_KEY, Index, Place
from spool.past import misfit
from spool.recovery import (
    Gap,
    Segment,
    check_version,
    find_seals,
    holds_torn,
    passage,
    reader,
    survey,
)
from spool.viewing import Viewed

# What can be found wrong.
LOST = "lost frames"
FOREIGN = "bytes that are no frame"
TORN = "torn tail"
HEADER_DAMAGED = "both headers damaged"
MISNAMED = "another segment's header"
UNREADABLE = "cannot be read"
NOTHING = "nothing in it verifies"

#: By their number in the log, the records that name a key.
_KINDS = {1: "PUT", 2: "AMEND", 3: "DROP", 4: "CHUNK"}
#: Bytes of one damaged stretch that are searched for the keys they name.
_SEARCHED_BYTES = 16 * 1024 * 1024
_WINDOW = 1024 * 1024

Progress = Callable[[int, int], None]


class Finding(NamedTuple):
    """Something wrong.  `frames` (at least) are lost, 0 when that cannot be told."""

    what: str
    segment: int
    offset: int
    size: int
    frames: int
    #: (kind of record, key) of which the damaged bytes still tell, themselves unverified.
    named: tuple[tuple[str, int], ...] = ()


class SegmentCount(NamedTuple):
    number: int
    #: Of the file, and of that header and frames.
    size_bytes: int
    used_bytes: int
    frames: int
    #: Bytes of records still needed.
    living_bytes: int

    @property
    def dead_share(self) -> float:
        frames = self.used_bytes - segments.FIRST
        return min(1.0, max(0.0, 1 - self.living_bytes / frames)) if frames > 0 else 0.0


class _Progress:
    """How far reading has come, in a row of files of `total` bytes."""

    def __init__(self, tell: Progress, total: int) -> None:
        self._tell, self._total = tell, total
        self._before = self._done = 0

    def watch(self, read: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
        """`read`, of the next file.  Parts read a second time do not count."""
        self._before = self._done

        def watched(offset: int, count: int) -> bytes:
            raw = read(offset, count)
            self._done = max(self._done, min(self._before + offset + len(raw), self._total))
            self._tell(self._done, self._total)
            return raw

        return watched


class Audit:
    """Reads all of the spool at `path` once.  Raises OSError, SpoolVersion.

    `progress(done, total)` is told of bytes read.  close() when done with it.
    """

    def __init__(
        self, path: str | os.PathLike[str], progress: Progress = lambda done, total: None
    ) -> None:
        self.path = os.fspath(path)
        # A dict for its order: the last segment is read twice, and its findings count once.
        self._findings: dict[Finding, None] = {}
        self._index = Index()
        self._chunks: dict[int, int] = {}
        self._row: dict[int, Segment] = {}
        self._sizes: dict[int, int] = {}
        self._frames: dict[int, int] = {}
        self._left: set[int] = set()
        #: Where what the checkpoint covers ends; None without one that is of use.
        self._covered_to: tuple[int, int] | None = None
        self._tail_frames = 0
        self._files = Viewed(self.path)
        try:
            check_version(self._files, self.path)
            #: Pid of the process that has the spool; None: nobody has.
            self.holder = self._files.holder()
            self._read_all(progress)
            self.disk_bytes = self._files.disk_bytes()
            #: (name, bytes) of what earlier starts kept aside.
            self.quarantined = self._files.quarantined()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Audit":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._files.close()

    def segments(self) -> list[SegmentCount]:
        """Ascending; those in which nothing could be read are among the findings only."""
        return [
            SegmentCount(
                number,
                self._sizes[number],
                segment.end,
                self._frames[number],
                self._index.living_in(number),
            )
            for number, segment in sorted(self._row.items())
            if number in self._sizes
        ]

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, in the order of the log."""
        return list(self._findings)

    @property
    def living_bytes(self) -> int:
        return self._index.living_bytes

    def keys(self) -> list[int]:
        """Living keys, oldest first."""
        return [key for keys in self._index.slices() for key in keys if key not in self._left]

    def __contains__(self, key: int) -> bool:
        return key in self._index and key not in self._left

    def state(self, key: int) -> bytes:
        """The newest.  KeyError."""
        return self._index.state(key)

    def lacks_put(self, key: int) -> bool:
        """Whether the key lives by the checkpoint alone: its PUT is damaged, or gone.  KeyError."""
        if key not in self:
            raise KeyError(key)
        return key not in self._chunks

    def missing(self, key: int) -> list[int]:
        """Numbers of the pieces of the key's body that are not in the log.  Without its PUT
        nobody knows: none.  KeyError."""
        count = 0 if self.lacks_put(key) else self._chunks[key]
        places = self._index.chunks(key)
        return [n for n in range(count) if n >= len(places) or places[n] is None]

    def head(self, key: int) -> bytes:
        """As the Put wrote it.  KeyError when gone, CorruptFrame, OSError."""
        return self._put(key).head

    def body(self, key: int) -> Iterator[bytes]:
        """The pieces in order, each verified.  Raises as head() does, also between two."""
        self._put(key)  # nothing of one that is damaged
        if self.missing(key):
            raise CorruptFrame(None, f"key {key} misses pieces {self.missing(key)}")
        yield from self.remains(key)

    def remains(self, key: int) -> Iterator[bytes]:
        """What is left of the body: as body(), without the parts that are missing."""
        put = None if self.lacks_put(key) else self._put(key)
        chunks = self._index.chunks(key)
        for seq, place in enumerate(chunks if put is None else chunks[: put.chunks]):
            if place is not None:
                yield next(
                    record.piece
                    for record in self._batch(place)
                    if type(record) is Chunk and record.key == key and record.seq == seq
                )
        if put is not None:
            yield put.body

    def _put(self, key: int) -> Put:
        if self.lacks_put(key):
            raise CorruptFrame(None, f"the record of key {key} is not in the log")
        for record in self._batch(self._index.place(key)):
            if type(record) is Put and record.key == key:
                return record
        raise CorruptFrame(None, f"no record of key {key}")

    def _batch(self, place: Place) -> list[AnyRecord]:
        try:
            fd = self._files.open(segments.name_of(place.segment))
        except FileNotFoundError:
            raise KeyError(place.segment) from None
        try:
            raw = self._files.salvage(fd, place.offset, place.length)
        finally:
            self._files.close_file(fd)
        frame = decode(raw, 0, self._row[place.segment].tag)
        if frame is None:
            raise CorruptFrame(place.offset, "the segment ends")
        return frame.batch

    # Reading.

    def _read_all(self, tell: Progress) -> None:
        # Before the log: what is written meanwhile comes behind it, and is read.
        checkpoint = self._find_checkpoint()
        try:
            present = self._read_new(tell)
            if self.holder is not None:
                # The holder went on meanwhile.  A segment it removed took only dead keys with
                # it, and their ends are in what it wrote before: so look which are there, then
                # read that.
                present = self._read_new(lambda done, total: None)
                self._left = {
                    key
                    for keys in self._index.slices()
                    for key in keys
                    if self._index.place(key).segment not in present
                }
                self._sizes = {n: size for n, size in self._sizes.items() if n in present}
            if checkpoint is not None:
                self._admit(checkpoint, present)
        finally:
            if checkpoint is not None:
                checkpoint.close()
        if self.holder is None:
            self._index.forget_orphans(self._index.last_key)

    def _find_checkpoint(self) -> Checkpoint | None:
        """The one that a start would use; it is not told what ails another."""
        try:
            checkpoint = Checkpoint(self._files, survey(self._files, _silent()).secret)
        except (CorruptFrame, OSError):
            return None
        try:
            # Not as it stood for the secret: the holder may have written both since.
            reason = misfit(self._files, survey(self._files, _silent()), checkpoint.covered)
            for _ in () if reason else checkpoint.verify():
                pass
        except (CorruptFrame, OSError) as error:
            reason = str(error)
        if reason:
            checkpoint.close()
            return None
        self._covered_to = checkpoint.covered.position.segment, checkpoint.covered.position.end
        return checkpoint

    def _admit(self, checkpoint: Checkpoint, present: set[int]) -> None:
        """Take in the checkpoint's keys of which the log has no PUT, as a start does: those that
        were not ended behind it, and whose segment is there.

        Its chunks are not: of those the log must have its own.
        """
        if not self._tail_frames:
            # Nothing can have ended since: a segment that is gone was not removed by us.
            present = present | checkpoint.covered.rows.keys()
        for block in checkpoint.content():
            if block[0] == KEYS:
                self._index.admit(block, present)
        self._index.expect_no_more(present)

    def _read_new(self, tell: Progress) -> set[int]:
        """Read what was not read yet.  → numbers of the segments there were at the beginning."""
        found = survey(self._files, _silent())
        seals = find_seals(self._files, found.row)
        last = max(found.row, default=0)
        known = max(self._row, default=0)
        new = [number for number in found.row if number >= known]
        progress = _Progress(tell, sum(map(self._size_of, new)))
        for number in new:
            segment = self._row.setdefault(number, found.row[number])
            self._read_one(segment, seals.get(number), number == last, progress)
        if not known:
            for number in sorted(found.aside):
                self._find(MISNAMED, number, 0, self._size_of(number))
        return {*found.row, *found.aside}

    def _size_of(self, number: int) -> int:
        return self._files.size_of(segments.name_of(number))

    def _read_one(
        self, segment: Segment, seal: Seal | None, is_last: bool, progress: _Progress
    ) -> None:
        try:
            fd = self._files.open(segments.name_of(segment.number))
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or self.holder is None:
                self._find(UNREADABLE, segment.number, 0, self._size_of(segment.number))
            return
        try:
            read = progress.watch(reader(self._files, fd))
            size = self._files.size(fd)
            if is_last and self.holder is not None:
                size = _written(read, size, segment, seal)
            self._take(read, size, segment, seal)
            self._sizes[segment.number] = self._files.size(fd)
            self._judge_end(read, size, segment, seal)
        finally:
            self._files.close_file(fd)

    def _take(
        self, read: Callable[[int, int], bytes], size: int, segment: Segment, seal: Seal | None
    ) -> None:
        count = self._frames.setdefault(segment.number, 0)
        for found in passage(read, size, segment, seal):
            if isinstance(found, Gap):
                what = LOST if found.missing else FOREIGN
                self._find(what, segment.number, *found, self._named(read, found, segment.tag))
                continue
            place, batch = found
            count += 1
            if self._covered_to is not None and place[:2] >= self._covered_to:
                self._tail_frames += 1
                self._index.expect(ANY_KEY)  # to come, by the checkpoint
            self._index.apply(place, batch)
            for record in batch:
                if type(record) is Put:
                    self._chunks[record.key] = record.chunks
                elif type(record) is Drop:
                    self._chunks.pop(record.key, None)
        self._frames[segment.number] = count

    def _judge_end(
        self, read: Callable[[int, int], bytes], size: int, segment: Segment, seal: Seal | None
    ) -> None:
        """What stands behind the last frame, and whether anything stood before it."""
        if not segment.intact and (segment.serial or not _is_blank(read, 0, size)):
            void = seal is not None and not seal.serial
            if segment.serial or void:
                self._find(HEADER_DAMAGED, segment.number, 0, segments.FIRST)
            else:
                self._find(NOTHING, segment.number, 0, size)
            return
        if seal is None and self.holder is None and holds_torn(read, segment, size):
            gap = Gap(segment.end, size - segment.end, 0)
            self._find(TORN, segment.number, *gap, self._named(read, gap, segment.tag))

    def _find(
        self,
        what: str,
        segment: int,
        offset: int,
        size: int,
        frames: int = 0,
        named: tuple[tuple[str, int], ...] = (),
    ) -> None:
        self._findings[Finding(what, segment, offset, size, frames, named)] = None

    def _named(
        self, read: Callable[[int, int], bytes], gap: Gap, tag: bytes
    ) -> tuple[tuple[str, int], ...]:
        return keys_named(read(gap.offset, min(gap.size, _SEARCHED_BYTES)), tag)


def holder_of(path: str | os.PathLike[str]) -> int | None:
    """The pid of the process that has the spool; None if nobody has.  OSError."""
    files = Viewed(os.fspath(path))
    try:
        return files.holder()
    finally:
        files.close()


def disk_bytes(path: str | os.PathLike[str]) -> int:
    """What the spool takes of the disk.  OSError."""
    files = Viewed(os.fspath(path))
    try:
        return files.disk_bytes()
    finally:
        files.close()


def keys_named(damaged: bytes, tag: bytes) -> tuple[tuple[str, int], ...]:
    """(kind, key) of each record of which `damaged` still tells, as far as it can be read."""
    named: dict[tuple[str, int], None] = {}
    starts = [piece for piece in damaged.split(tag)[1:] if len(piece) >= HEADER.size - len(tag)]
    for piece in starts:
        unpacker = msgpack.Unpacker(max_buffer_size=len(piece) + 1)
        unpacker.feed(piece[HEADER.size - len(tag) :])
        try:
            for _ in range(unpacker.read_array_header()):
                fields = unpacker.read_array_header()
                kind, key = unpacker.unpack(), unpacker.unpack()
                if type(kind) is not int or type(key) is not int or key < 1:
                    break
                if kind in _KINDS:
                    named[_KINDS[kind], key] = None
                for _ in range(fields - 2):
                    unpacker.skip()
        except (msgpack.UnpackException, ValueError):
            continue  # the damage itself
    return tuple(named)


def _written(
    read: Callable[[int, int], bytes], size: int, segment: Segment, seal: Seal | None
) -> int:
    """Just past the last frame that stands there now.

    Up to there nothing moves any more: read again, a hole that the writer had overtaken us
    with is filled.
    """
    glance = Segment(segment.number, segment.tag, segment.intact)
    for _ in passage(read, size, glance, seal):
        pass
    return glance.end


def _is_blank(read: Callable[[int, int], bytes], start: int, stop: int) -> bool:
    """Zeros alone, as a file is filled ahead of need."""
    return not any(
        read(at, min(_WINDOW, stop - at)).strip(b"\0") for at in range(start, stop, _WINDOW)
    )


def _silent() -> logging.Logger:
    """What survey() would log, the findings say."""
    logger = logging.Logger("spool.audit")
    logger.disabled = True
    return logger
