"""The row of segments: append, roll, sync, and what to do when the disk refuses.

One caller at a time (commit.py sees to it) but for read() and note().  Knows neither keys nor
liveness.

    write frames -> sync -> landed            order matters: nothing lands unsynced
    note         -> written at once, durable and landed with the next sync that begins after it
    no room      -> cut the partial frame, keep the whole ones, refuse the rest
    failed sync  -> the segment ends at its last good sync, and is never synced again; a fresh
                    one says so in its first frame (SEAL) before anybody is told of the failure
"""

import contextlib
import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from operator import attrgetter
from zlib import crc32

from spool import segment as segments
from spool.active import Active
from spool.checkpoint import Covered, Row
from spool.counters import Counters
from spool.entry import Entry
from spool.errors import SpoolError, SpoolFailed, SpoolFull
from spool.files import Files, is_full
from spool.frame import AnyRecord, Seal, encode
from spool.index import Place
from spool.losses import Gap, Losses
from spool.past import Past
from spool.readback import ReadBack
from spool.recovery import Segment, passage, reader
from spool.segment import VERSION, Header
from spool.supply import Supply
from spool.waiting import Lock

#: This part of each segment is left to settlements (`kept` entries): while the disk is full they
#: end what was accepted, and so make room.
_RESERVE_SHARE = 64
_by_offset = attrgetter("offset")
#: Room behind the last frame of a segment, as a part of it, that is given back when it ends.
_WORTH_CUTTING = 8


class Log:
    def __init__(
        self,
        files: Files,
        segment_bytes: int,
        landed: Callable[[Sequence[Entry]], None],
        issued: Callable[[], int],
        losses: Losses,
        counters: Counters,
        logger: logging.Logger,
        lock: Callable[[], Lock],
    ) -> None:
        """`landed` is told of entries as soon as they are durable, in the log's order; `issued`
        says the last key that was given out.  `lock` makes one that is held by nobody who waits
        for anything but a write."""
        self._files = files
        self._segment_bytes = segment_bytes
        #: As far as a segment is filled with what is no settlement.
        self._accepts_bytes = segment_bytes - segment_bytes // _RESERVE_SHARE
        self._landed = landed
        self._issued = issued
        self._losses = losses
        self._counters = counters
        self._logger = logger
        self._back = ReadBack(files)
        self._supply = Supply(files, segment_bytes, counters, logger)
        self._row: dict[int, Segment] = {}
        self._aside: set[int] = set()
        self._unreadable: set[int] = set()
        #: Gone without our doing, with keys in them that live.
        self._missing: set[int] = set()
        #: Removed, and not yet for certain: a power cut may bring them back.
        self._leaving: set[int] = set()
        self._active: Active | None = None
        #: Held while frames are written, never while they are synced.
        self._writing = lock()
        #: Notes that a failed sync took, to be written again.
        self._again: list[Entry] = []
        self._owed: list[Seal] = []
        self._next = 1
        self._secret = b""
        #: What ails the disk, as last logged; logged again only when it changes.
        self._trouble = ""

    def open(self) -> Past:
        """Go on where the log ends.  → what it was, which is still to be replayed."""
        past = Past(self._files, self._losses, self._counters, self._logger)
        self._secret, self._row, self._aside, self._unreadable, spares = past.found
        # Above the spares' too, or frames of their earlier lives would count again.
        self._next = max(self._supply.open(spares, self._secret), past.highest) + 1
        if past.end is not None:
            self._continue(past.end, past.may_go_on)
        return past

    def miss(self, numbers: Iterable[int]) -> None:
        """These segments are not there, and should be.  They count as present: what ends a key in
        one must outlive every checkpoint that has the key."""
        self._missing.update(numbers)

    def covered(self, last_key: int, needed: Container[int]) -> Covered | None:
        """How far the log is durable, while nothing is being committed, and which segments with
        something `needed` are missing; None while a checkpoint could not say it: what could not
        be read at this start may be at the next."""
        active = self._active
        if self._unreadable or active is None:
            return None
        rows = {
            number: Row(number, 0, 0, 0, [])
            for number in self._missing
            # The position is the highest of all.
            if number in needed and number < active.number
        }
        for s in self._row.values():
            rows[s.number] = Row(s.number, s.last, s.serial, s.end, sorted(s.guards))
        return Covered(last_key, rows)

    @property
    def secret(self) -> bytes:
        return self._secret

    def commit(self, entries: Sequence[Entry]) -> SpoolError | None:
        """Make `entries` durable, in order.  On return each has either landed or an error.

        Those that are `kept` get a second try, alone and, after a failed sync, elsewhere.
        What was noted before becomes durable with them; the error is returned that keeps it from
        that.  Without entries only that is tried, and the seal that an earlier failure may still
        owe.
        """
        began = time.perf_counter()
        try:
            refused = self._through(entries)
            if entries:
                self._counters.note_commit(time.perf_counter() - began)
        except BaseException:
            # Killed in the middle of a sync.  Others waited for it too, and are told when we
            # are gone: so first the seal.
            self._through(())
            raise
        if refused or self._owes_refusal():
            kept = [entry for entry in refused if entry.kept and not entry.noted]
            left = self._through(kept)
            if left and isinstance(left[0].error, SpoolFull) and self._moves_on():
                self._through(left)
        return self._again[0].error if self._again else None

    def note(self, entry: Entry) -> bool:
        """Write `entry` (a `kept` one) at once, beside a running sync: a killed process leaves
        it behind, a machine without power may not.  It lands with a later commit, and is
        written again when that fails.  False, with nothing done, when there is no place for it.
        """
        with self._writing:
            active = self._active
            # Nothing new of a key goes ahead of what is to be written again.
            if active is None or active.closing or self._again:
                return False
            if not self._fits(entry, active.tail):
                return False
            # Not cut off if it is written in part: a running sync may fail, and end the
            # segment, meanwhile.  The next frame goes over it, and leaves no tag of it.
            written, _ = active.write([entry])
            if written:
                entry.noted = True
                active.notes.append(entry)
            return bool(written)

    def read(self, place: Place) -> list[AnyRecord]:
        """The records of the frame at `place`.  CorruptFrame, OSError; from any thread."""
        return self._back.read(place, self._row[place.segment].tag)

    def present(self) -> list[int]:
        """Numbers of the segments there are, or may be, readable or not, ascending."""
        return sorted({*self._row, *self._aside, *self._leaving, *self._missing})

    def removable(self) -> list[int]:
        """Sealed segments, ascending, that the log itself has no further use for."""
        active = self._active.number if self._active is not None else self._next
        # What could not be read at this start may be at the next, and would then revive what
        # later segments have ended.
        below = min([active, *self._unreadable])
        present = self.present()
        return [
            segment.number
            for segment in sorted(self._row.values(), key=lambda s: s.number)
            if segment.number < below
            and segment.guards.isdisjoint(present)
            and segment.number not in self._losses.unkept
        ]

    def used_bytes(self, number: int) -> int:
        """Bytes of the frames in a segment."""
        return self._row[number].end - segments.FIRST

    def frames(self, number: int) -> Iterator[tuple[Place, list[AnyRecord]]]:
        """What verifies in a sealed segment, in order.  OSError.

        What does not is kept aside and logged; where that fails, the segment stays.
        """
        known = self._row[number]
        fd = self._files.open(segments.name_of(number))
        try:
            fresh, read = Segment(number, known.tag), reader(self._files, fd)
            # As if sealed where it is known to end, so that damage to the last frame is a gap too.
            seal = Seal(number, known.serial, known.end, 0, 0)
            for found in passage(read, known.end, fresh, seal):
                if isinstance(found, Gap):
                    self._losses.report(read, number, known.tag, found)
                else:
                    yield found
        finally:
            self._files.close_file(fd)

    def goes_on_behind(self, position: Row | None, without: Sequence[int]) -> bool:
        """Whether there is a frame behind `position`, not counting these segments."""
        return position is None or any(
            segment.serial > (position.serial if segment.number == position.segment else 0)
            for segment in self._row.values()
            if segment.number >= position.segment and segment.number not in without
        )

    @property
    def is_missing_some(self) -> bool:
        """Whether there are segments that are gone without our doing, and needed."""
        return bool(self._missing)

    @property
    def is_removing(self) -> bool:
        """Whether a remove() has failed half-way: another would see to the rest."""
        return bool(self._leaving)

    def remove(self, numbers: Sequence[int]) -> list[int]:
        """Delete these segments, or make spares of them, durably.  → those that are gone now,
        with what an earlier call that failed has left.  OSError: none is for certain."""
        # What failed to be synced is neither trusted nor synced again.
        failed = {seal.segment for seal in self._owed if seal.refused}
        failed.update(*(segment.guards for segment in self._row.values()))
        for number in numbers:
            sound = self._row[number].intact and number not in failed
            self._supply.give_back(number, sound)
            del self._row[number]
            self._leaving.add(number)
        self._supply.settle()
        gone = sorted(self._leaving)
        self._leaving.clear()
        return gone

    def prepare(self) -> None:
        """Have room ready for the next segment.  May take long; not in anybody's way."""
        self._supply.prepare()

    def close(self) -> None:
        if self._owes_refusal():
            self._through(())  # the next process will not know of it otherwise
        if self._active is not None:
            self._files.close_file(self._active.fd)
            self._active = None

    def _continue(self, last: Segment, may_go_on: bool) -> None:
        """Append to the last segment, if it is whole and takes a sync.

        What a killed process left unsynced was replayed, and must not vanish later.
        """
        if last.intact and may_go_on:
            active = Active(last.number, last.tag, -1, self._files, self._counters)
            active.last = last.last
            active.end = active.tail = last.end
            active.serial = active.tail_serial = last.serial
            active.guards, active.fresh = last.guards, False
            try:
                active.fd = self._files.open(segments.name_of(last.number), writable=True)
                self._files.sync(active.fd)
            except OSError as error:
                self._logger.error("spool: cannot go on in segment %d: %s", last.number, error)
                if active.fd >= 0:
                    self._files.close_file(active.fd)
            else:
                self._row[last.number] = self._active = active
                return
        self._owe(last, refused=0)

    def _through(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """As many as the disk takes; the rest come back, each with its error."""
        entries = [*self._again, *entries]
        start = 0
        try:
            if self._owes_refusal():
                self._sync(self._open_next(), ())
            while start < len(entries):
                segment = self._segment_for(entries[start])
                stop, error = self._append(segment, entries, start)
                if stop > start:
                    self._sync(segment, entries[start:stop])
                start = stop
                if error is not None:
                    raise error
            if not entries and self._active is not None and self._active.notes:
                self._sync(self._active, ())
        except OSError as error:
            return self._refuse(entries[start:], error)
        finally:
            self._again = [entry for entry in self._again if not entry.landed]
        return ()

    def _moves_on(self) -> bool:
        """Whether a full disk leaves room after all: in a segment that was made ahead of need,
        while the active one has none set aside."""
        if not self._supply.has_spare:
            return False
        try:
            self._open_next()
        except OSError as error:
            self._logger.error("spool: the next segment cannot be begun: %s", error)
            return False
        return True

    def _owes_refusal(self) -> bool:
        return self._active is None and any(seal.refused for seal in self._owed)

    def _segment_for(self, entry: Entry) -> Active:
        """The active segment, or the next when the frame would not fit.  OSError."""
        active = self._active
        if active is not None and (active.fresh or self._fits(entry, active.tail)):
            return active
        return self._open_next(entry.size)

    def _fits(self, entry: Entry, tail: int) -> bool:
        return tail + entry.size <= (self._segment_bytes if entry.kept else self._accepts_bytes)

    def _open_next(self, size: int = 0) -> Active:
        """A fresh segment: header, and as its first frame where those before it end.

        While no file can be had, the one before stays, for what still fits.  Once it is sealed, if
        only perhaps, nothing may be added to it.
        """
        # Never the same number twice, whatever becomes of this file: the tag depends on it.
        number, self._next = self._next, self._next + 1
        fd = self._supply.take(Header(VERSION, number, self._secret), size)
        tag = segments.tag_of(self._secret, number)
        active = Active(number, tag, fd, self._files, self._counters)
        try:
            if self._active is not None:
                self._finish(self._active)
            self._begin(active)
        except BaseException:
            self._files.close_file(fd)
            self._files.remove(segments.name_of(number))
            raise
        self._row[number] = active
        with self._writing:
            self._active = active
        return active

    def _finish(self, segment: Active) -> None:
        """No more is written to it.  OSError when what was noted there cannot be synced."""
        with self._writing:
            segment.closing = True
        if segment.notes:
            self._sync(segment, ())
        if self._segment_bytes - segment.tail > self._segment_bytes // _WORTH_CUTTING:
            # Or large frames, two of which do not fit, would take twice their room.
            with contextlib.suppress(OSError):
                self._files.cut(segment.fd, segment.tail)
        self._retire(segment, refused=0)

    def _begin(self, active: Active) -> None:
        if not self._owed:
            return
        body = encode([seal._replace(last_key=self._issued()) for seal in self._owed])
        active.guards = {seal.segment for seal in self._owed if seal.refused}
        active.begin(body, crc32(body))

    def _append(
        self, segment: Active, entries: Sequence[Entry], start: int
    ) -> tuple[int, OSError | None]:
        """Write entries[start:stop], those the segment has room for.  → stop, what ended it.

        An error comes with the segment cut behind the last whole frame.  Raises OSError when the
        segment cannot be used any more.
        """
        with self._writing:
            tail, stop = segment.tail, start
            for entry in entries[start:]:
                tail += entry.size
                if tail > (self._segment_bytes if entry.kept else self._accepts_bytes) and not (
                    segment.fresh and stop == start
                ):
                    break
                stop += 1
            written, error = segment.write(entries[start:stop])
            ruin = segment.mend(error) if error is not None else None
        if ruin is not None:
            self._fail(segment)
            raise ruin
        return start + written, error

    def _sync(self, segment: Active, entries: Sequence[Entry]) -> None:
        """Make `entries`, just written, durable, and what was noted before."""
        with self._writing:
            tail, serial, notes = segment.tail, segment.tail_serial, segment.notes
            segment.notes = []
        try:
            self._files.sync(segment.fd)
        except BaseException:
            # Whatever ended it: what became durable is unknown, and a second sync would not say
            # (it reports success for pages the first one dropped).
            self._counters.failed_syncs += 1
            self._again += notes
            self._fail(segment)
            raise
        self._counters.syncs += 1
        self._counters.durable_bytes += tail - segment.end
        landed = sorted([*notes, *entries], key=_by_offset) if notes else entries
        segment.end, segment.serial = tail, serial
        if landed:
            segment.last = landed[-1].offset
        self._owed.clear()
        self._land(landed)

    def _fail(self, segment: Active) -> None:
        with self._writing:
            segment.closing = True
            self._again += segment.notes
        self._logger.error(
            "spool: %s failed, ends at %d", segments.name_of(segment.number), segment.end
        )
        try:
            # The seal is what counts.  This helps a start that comes before the seal is durable.
            self._files.cut(segment.fd, segment.end)
        except OSError as error:
            self._logger.error("spool: and cannot be cut there: %s", error)
        if not segment.serial:
            segment.guards = set()  # no seal in it is known to be durable
        self._retire(segment, refused=1)

    def _retire(self, segment: Active, refused: int) -> None:
        self._owe(segment, refused)
        with self._writing:
            self._active = None
        self._files.close_file(segment.fd)

    def _owe(self, segment: Segment, refused: int) -> None:
        self._owed.append(Seal(segment.number, segment.serial, segment.end, refused, 0))

    def _land(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            entry.landed = True
            entry.error = None
        self._counters.frames += len(entries)
        if entries and self._trouble:
            self._trouble = ""
            self._logger.warning("spool: writing succeeds again")
        self._landed(entries)

    def _refuse(self, entries: Sequence[Entry], error: OSError) -> Sequence[Entry]:
        kind = SpoolFull if is_full(error) else SpoolFailed
        if kind is SpoolFull:
            self._counters.full += 1
        if self._trouble != str(error):
            self._trouble = str(error)
            self._logger.error("spool: writing fails: %s", error)
        for entry in (*entries, *self._again):
            entry.error = kind(str(error))
        return entries
