"""A spool as it stands: what is in it, what lives, what is damaged.  For people and their tools.

All of the log is read, what a checkpoint covers as well.  Of what it covers the checkpoint has
the last word, as at a start: on which keys live, though the log may have lost the PUT of one or
the DROP of another, and on their states.

Changes nothing (see viewing.py), and works while a process has the spool: what that one writes
meanwhile is partly seen, and what it is just writing is no damage.  Memory as a start takes it.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from spool import segment as segments
from spool.checkpoint import KEYS, Block, Checkpoint
from spool.errors import CorruptFrame
from spool.frame import Amend, AnyRecord, Chunk, Drop, Put, Seal, decode
from spool.index import ANY_KEY, Index, Place, states_in
from spool.losses import Gap, Named, named_in
from spool.past import misfit
from spool.recovery import (
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
    named: Named = ()


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
        #: Keys with a PUT behind that, and those with a PUT or an AMEND.
        self._put_since: set[int] = set()
        self._told_since: set[int] = set()
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
        """Let the checkpoint's word stand, as a start does, where nothing behind it says more.

        End keys that it does not know, bring up to date the states of others, and take in those
        of which the log has no PUT and whose segment is there.  Its chunks are not taken in: of
        those the log must have its own.
        """
        if not self._tail_frames:
            # Nothing can have ended since: a segment that is gone was not removed by us.
            present = present | checkpoint.covered.rows.keys()
        present = present | checkpoint.covered.missing
        ours = (key for keys in self._index.slices() for key in keys)
        known = (key for block in _blocks_of_keys(checkpoint) for key in block[1])
        for key in list(_without(ours, known)):
            if key not in self._put_since:
                self._index.apply(self._index.place(key), [Drop(key)])
                self._chunks.pop(key, None)
        for block in _blocks_of_keys(checkpoint):
            for key, segment, state in states_in(block):
                if key in self._index and key not in self._told_since:
                    self._bring_up_to_date(key, segment, state)
            self._index.admit(block, present)
        self._index.expect_no_more(present)

    def _bring_up_to_date(self, key: int, segment: int, state: bytes) -> None:
        if self._index.state(key) != state:
            self._index.apply(Place(segment, 0, 0), [Amend(key, state)])

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
                if not self._was_given_back(number):
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
            if not segment.intact and self.holder is not None:
                _is_intact_now(read, segment)
            if is_last and self.holder is not None:
                size = _written(read, size, segment, seal)
            self._take(read, size, segment, seal)
            self._sizes[segment.number] = self._files.size(fd)
            self._judge_end(read, size, segment, seal)
        finally:
            self._files.close_file(fd)
        if self._was_given_back(segment.number):
            # What we had open may have been written over as another segment while we read.
            self._findings = {
                finding: None for finding in self._findings if finding.segment != segment.number
            }

    def _was_given_back(self, number: int) -> bool:
        """Whether the holder has removed the segment, since it was listed."""
        return self.holder is not None and not self._files.has(segments.name_of(number))

    def _take(
        self, read: Callable[[int, int], bytes], size: int, segment: Segment, seal: Seal | None
    ) -> None:
        count = self._frames.setdefault(segment.number, 0)
        for found in passage(read, size, segment, seal):
            if isinstance(found, Gap):
                what = LOST if found.missing else FOREIGN
                self._find(what, segment.number, *found, named_in(read, segment.tag, found))
                continue
            place, batch = found
            count += 1
            if self._covered_to is not None and place[:2] >= self._covered_to:
                self._tail_frames += 1
                self._index.expect(ANY_KEY)  # to come, by the checkpoint
                self._put_since.update(record.key for record in batch if type(record) is Put)
                self._told_since.update(
                    record.key for record in batch if isinstance(record, Put | Amend)
                )
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
            if self.holder is not None and _is_intact_now(read, segment):
                return
            void = seal is not None and not seal.serial
            if segment.serial or void:
                self._find(HEADER_DAMAGED, segment.number, 0, segments.FIRST)
            else:
                self._find(NOTHING, segment.number, 0, size)
            return
        if seal is None and self.holder is None and holds_torn(read, segment, size):
            gap = Gap(segment.end, size - segment.end, 0)
            self._find(TORN, segment.number, *gap, named_in(read, segment.tag, gap))

    def _find(
        self,
        what: str,
        segment: int,
        offset: int,
        size: int,
        frames: int = 0,
        named: Named = (),
    ) -> None:
        self._findings[Finding(what, segment, offset, size, frames, named)] = None


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


def _blocks_of_keys(checkpoint: Checkpoint) -> Iterator[Block]:
    return (block for block in checkpoint.content() if block[0] == KEYS)


def _without(keys: Iterable[int], known: Iterator[int]) -> Iterator[int]:
    """Of `keys` those that are not `known`; both ascend."""
    other = next(known, None)
    for key in keys:
        while other is not None and other < key:
            other = next(known, None)
        if other != key:
            yield key


def _is_intact_now(read: Callable[[int, int], bytes], segment: Segment) -> bool:
    """A new file has its name before its header, but its header before any frame: when it was
    listed, its holder may have been between the two.  Brings `segment` up to date."""
    header = segments.find_header(read(0, segments.HEADER_SEARCH))
    if header is None or header.number != segment.number:
        return False
    segment.intact, segment.tag = True, segments.tag_of(header.secret, header.number)
    return True


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
