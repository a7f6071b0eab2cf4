"""Reading a log back: which segments there are, what each says, and what was lost.

A damaged, truncated, empty or vanished segment never stops the start: what verifies is used,
what does not is counted, logged and kept aside.  Nothing is written to the log here but the cut
of a torn tail.
"""

import errno
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from spool import segment as segments
from spool.checkpoint import Row
from spool.counters import Counters
from spool.errors import CorruptFrame, SpoolVersion
from spool.files import Files
from spool.frame import AnyRecord, Seal, decode
from spool.index import Place
from spool.losses import Gap, Losses
from spool.segment import HEADER_SEARCH, Header

#: Ours to solve, and no sign of a damaged file: too many open files, no memory.
_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: A segment's first frame is read on its own for its seals: a few, of 20 bytes at most.
_SEALS_BYTES = 64 * 1024
#: What one step of a replay may cost, in bytes read, and what a frame costs besides: together
#: some milliseconds.
_STEP_WORK = 4 * 1024 * 1024
_FRAME_WORK = 2 * 1024
#: Bytes read at once when looking for a torn frame.
_TAIL_WINDOW = 1024 * 1024

Apply = Callable[[Place, list[AnyRecord]], None]


class Segment:
    """One segment of the row.  Frame number `serial`, the last that counts, stands at `last` and
    ends at `end` (bytes)."""

    __slots__ = ("end", "guards", "intact", "last", "number", "serial", "tag")

    def __init__(self, number: int, tag: bytes, intact: bool = True) -> None:
        self.number = number
        self.tag = tag
        #: False when both copies of the header are damaged: not written to any more.
        self.intact = intact
        self.last = self.end = segments.FIRST
        self.serial = 0
        #: Segments with refused frames that only this one's seals keep from being replayed.
        self.guards: set[int] = set()

    def resume(self, row: Row | None) -> None:
        """It was read before, as far as `row` says; None: not at all."""
        self.last = row.last if row else segments.FIRST
        self.end = row.end if row else segments.FIRST
        self.serial = row.serial if row else 0
        self.guards = set(row.guards) if row else set()


class Survey(NamedTuple):
    """What stands in the directory."""

    secret: bytes
    row: dict[int, Segment]
    #: Numbers of files that hold nothing of this spool that could be told.  Left as they are.
    aside: set[int]
    #: Of those, files that could not be read.  Another start may find them full of records.
    unreadable: set[int]
    #: Files that wait to become segments, and what their headers say.
    spares: dict[str, Header | None]


def check_version(files: Files, path: str) -> None:
    """SpoolVersion when a newer program has written here.  Reads only."""
    headers = [_header(files, number) for number in _numbers(files)]
    for header in [*headers, *_spares(files).values()]:
        if header is not None and header.version > segments.VERSION:
            raise SpoolVersion(path, header.version, segments.VERSION)


def survey(files: Files, logger: logging.Logger) -> Survey:
    """The segments, ascending.  One whose header is damaged is known by its name and by the
    secret, which every other segment repeats; an empty directory gets a new secret."""
    headers = {number: _header(files, number) for number in _numbers(files)}
    spares = _spares(files)
    # A segment's word counts for more than a spare's.
    known = [*spares.values(), *headers.values()]
    secrets = [header.secret for header in known if header is not None]
    secret = secrets[-1] if secrets else os.urandom(segments.SECRET_BYTES)
    found = Survey(secret, {}, set(), set(), spares)
    for number, header in headers.items():
        if header is None:
            logger.error("spool: %s has no intact header", segments.name_of(number))
            found.row[number] = Segment(number, segments.tag_of(secret, number), intact=False)
        elif header.number == number:
            found.row[number] = Segment(number, segments.tag_of(header.secret, number))
        else:
            name = segments.name_of(number)
            logger.error("spool: %s says it is segment %d, left aside", name, header.number)
            found.aside.add(number)
    return found


def find_end(
    files: Files,
    found: Survey,
    seals: Mapping[int, Seal],
    look: Callable[[Sequence[AnyRecord]], None],
    losses: Losses,
    counters: Counters,
    logger: logging.Logger,
) -> Segment | None:
    """The last segment, read to its end, where a process that was killed stopped writing.

    Its torn tail is cut off.  Later ones in which nothing can be told are left aside.  `look`
    is shown every batch in it.
    """
    while found.row:
        segment = found.row[max(found.row)]
        fd = _open_or_leave(files, found, segment, logger, writable=True)
        if fd is None:
            continue
        try:
            seal = seals.get(segment.number)
            for read in passage(reader(files, fd), files.size(fd), segment, seal):
                if not isinstance(read, Gap):
                    look(read[1])
            if _is_hollow(files, fd, found, segment, seal, logger):
                continue
            _cut_tail(files, fd, segment, losses, counters)
        finally:
            files.close_file(fd)
        return segment
    return None


def replay(
    files: Files,
    found: Survey,
    last: Segment | None,
    begin: Callable[[int], Segment | None],
    seals: Mapping[int, Seal],
    apply: Apply,
    losses: Losses,
    counters: Counters,
    logger: logging.Logger,
) -> Iterator[None]:
    """Hand every frame to `apply`, in the log's order, up to the end of `last` as find_end()
    found it; bring `found` up to date.  Yields now and then: each step is short.  What the log
    has gone on to write meanwhile, in later segments too, is none of its business.

    `begin(number)` says what is known of a segment, to read on from there; None: all there is.
    Holds one window of one segment at a time.
    """
    if last is None:
        return
    end = last.end
    for number in [number for number in sorted(found.row) if number <= last.number]:
        known = begin(number)
        if known is None:
            continue
        fd = _open_or_leave(files, found, known, logger)
        if fd is None:
            continue
        try:
            is_last = number == last.number
            size = end if is_last else files.size(fd)
            seal = seals.get(number)
            yield from _replay_one(files, fd, size, known, seal, apply, losses, counters)
            if not is_last:
                _is_hollow(files, fd, found, known, seal, logger)
        finally:
            files.close_file(fd)


def _open_or_leave(
    files: Files,
    found: Survey,
    segment: Segment,
    logger: logging.Logger,
    *,
    writable: bool = False,
) -> int | None:
    """Its descriptor; None for one that cannot be read, which is left aside."""
    name = segments.name_of(segment.number)
    try:
        return files.open(name, writable=writable)
    except OSError as error:
        if error.errno in _NOT_THE_FILE:
            raise
        logger.error("spool: %s cannot be read: %s", name, error)
        _leave_aside(found, segment.number)
        found.unreadable.add(segment.number)
        return None


def _is_hollow(
    files: Files,
    fd: int,
    found: Survey,
    segment: Segment,
    seal: Seal | None,
    logger: logging.Logger,
) -> bool:
    """Whether nothing in it could be told, though there is something: then it is left aside."""
    # A seal may say that nothing in it counts: then that is no riddle.
    void = seal is not None and not seal.serial
    if segment.intact or segment.serial or void or not _holds_anything(files, fd):
        return False
    logger.error("spool: nothing in %s verifies, left aside", segments.name_of(segment.number))
    _leave_aside(found, segment.number)
    return True


def _leave_aside(found: Survey, number: int) -> None:
    """Not used, and not removed either: somebody may still make sense of it."""
    del found.row[number]
    found.aside.add(number)


def _holds_anything(files: Files, fd: int) -> bool:
    """False for what a crash leaves of a segment just being made: nothing, or zeros."""
    return bool(files.salvage(fd, 0, HEADER_SEARCH).strip(b"\0")) or (
        files.size(fd) > HEADER_SEARCH
    )


def _replay_one(
    files: Files,
    fd: int,
    size: int,
    segment: Segment,
    seal: Seal | None,
    apply: Apply,
    losses: Losses,
    counters: Counters,
) -> Iterator[None]:
    read = reader(files, fd)
    work = 0
    for found in passage(read, size, segment, seal):
        if isinstance(found, Gap):
            losses.report(read, segment.number, segment.tag, found)
            if found.missing:
                counters.lost_frames += found.missing
                counters.lost_bytes += found.size
            continue
        place, batch = found
        apply(place, batch)
        work += place.length + _FRAME_WORK
        if work >= _STEP_WORK:
            work = 0
            yield


def passage(
    read: Callable[[int, int], bytes], size: int, segment: Segment, seal: Seal | None
) -> Iterator[Gap | tuple[Place, list[AnyRecord]]]:
    """Every frame of a file of `size` bytes in order, and what stands between; keeps `segment`
    up to date.  What follows the last frame is the caller's to judge."""
    start = segment.end if segment.serial else 0
    for offset, length, frame in segments.scan(read, size, segment.tag, start):
        if seal is not None and frame.serial > seal.serial:
            break
        if frame.serial <= segment.serial:
            continue  # a second copy of bytes that were read already
        missing = frame.serial - segment.serial - 1
        if missing or offset > segment.end:
            yield Gap(segment.end, max(0, offset - segment.end), missing)
        segment.serial, segment.last, segment.end = frame.serial, offset, offset + length
        for record in frame.batch:
            if type(record) is Seal and record.refused:
                segment.guards.add(record.segment)
        yield tuple.__new__(Place, (segment.number, offset, length)), frame.batch
    if seal is not None and segment.serial < seal.serial:
        yield Gap(segment.end, max(0, seal.end - segment.end), seal.serial - segment.serial)


def _cut_tail(files: Files, fd: int, segment: Segment, losses: Losses, counters: Counters) -> None:
    """Only of the last segment, the one that was being written when the process ended.

    What does not have its tag is no part of it: zeros, or an earlier life of the file.
    """
    size, read = files.size(fd), reader(files, fd)
    if not segment.intact or not holds_torn(read, segment, size):
        return
    torn = Gap(segment.end, size - segment.end, 0)
    counters.torn_bytes += torn.size
    losses.report_torn(read, segment.number, segment.tag, torn)  # before it is gone
    files.cut(fd, segment.end)


def holds_torn(read: Callable[[int, int], bytes], segment: Segment, size: int) -> bool:
    """Does something of the segment's own stand behind its last frame, in a file of `size`?

    Its tag does, or stood there: of eight bytes of an earlier life or of zeros, four do not
    agree with the tag by chance, while one damaged byte leaves seven that do.
    """
    tag = segment.tag
    for at in range(segment.end, size, _TAIL_WINDOW):
        if tag in read(at, _TAIL_WINDOW + len(tag) - 1):
            return True
    start = read(segment.end, len(tag))
    alike = sum(one == other for one, other in zip(start, tag, strict=False))
    return alike >= min(len(start), len(tag) // 2) > 0


def find_seals(files: Files, row: Mapping[int, Segment], above: int = 0) -> dict[int, Seal]:
    """Where segments end, from the first frame of each later one, of those `above` a number.

    A segment's seal stands in a later file, and must be known before it is replayed.
    """
    seals: dict[int, Seal] = {}
    for segment in row.values():
        if segment.number <= above:
            continue
        start = _start_of(files, segments.name_of(segment.number), segments.FIRST + _SEALS_BYTES)
        at = start.find(segment.tag)
        try:
            frame = decode(start, at, segment.tag) if at >= 0 else None
        except CorruptFrame:
            continue  # counted when this segment is replayed
        if frame is not None:
            seals.update((s.segment, s) for s in frame.batch if type(s) is Seal)
    return seals


def _numbers(files: Files) -> list[int]:
    found = (segments.number_of(name) for name in files.names())
    return sorted(number for number in found if number is not None)


def _header(files: Files, number: int) -> Header | None:
    return segments.find_header(_start_of(files, segments.name_of(number), HEADER_SEARCH))


def _spares(files: Files) -> dict[str, Header | None]:
    names = [name for name in files.names() if segments.spare_number_of(name) is not None]
    return {n: segments.find_header(_start_of(files, n, segments.FIRST)) for n in names}


def _start_of(files: Files, name: str, count: int) -> bytes:
    """The first `count` bytes of a file; nothing if it cannot be read."""
    try:
        fd = files.open(name)
    except OSError as error:
        if error.errno in _NOT_THE_FILE:
            raise
        return b""
    try:
        return files.salvage(fd, 0, count)
    finally:
        files.close_file(fd)


def reader(files: Files, fd: int) -> Callable[[int, int], bytes]:
    """Bytes of an open segment, zeros for what the disk does not give back."""
    return lambda offset, count: files.salvage(fd, offset, count)
