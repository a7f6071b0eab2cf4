"""The log as a start finds it: which segments, how far a checkpoint covers them, where it ends.

Found quickly, so that writing can begin; read in short steps while it goes on.
"""

import logging
from collections.abc import Iterator, Sequence

from spool import segment as segments
from spool.checkpoint import Checkpoint, Covered, Row
from spool.counters import Counters
from spool.errors import CorruptFrame
from spool.files import Files
from spool.frame import AnyRecord, Seal, decode
from spool.index import Place
from spool.losses import Losses
from spool.recovery import Apply, Segment, Survey, find_end, find_seals, replay, survey


class Past:
    """Reads the headers, the seals and the last segment; then replay() must follow.

    Creates nothing: the disk may be full.  OSError.
    """

    def __init__(
        self, files: Files, losses: Losses, counters: Counters, logger: logging.Logger
    ) -> None:
        self._files = files
        self._losses = losses
        self._counters = counters
        self._logger = logger
        self.found: Survey = survey(files, logger)
        self.checkpoint = self._find_checkpoint()
        covered = self.checkpoint.covered if self.checkpoint is not None else Covered(0, {})
        for number in covered.rows.keys() & self.found.row.keys():
            self.found.row[number].resume(covered.rows[number])
        highest = max(covered.rows, default=0)
        self._seals = find_seals(files, self.found.row, above=highest)
        #: Keys that were ever given out, as far as can be told without reading all the log.
        self.last_key = max([covered.last_key, *(s.last_key for s in self._seals.values())])
        #: The segment to go on in, as it ended when it was found.
        self.end = find_end(files, self.found, self._seals, self._look, losses, counters, logger)
        #: No segment ever had a higher number.
        self.highest = max([highest, *self.found.row, *self.found.aside])

    @property
    def may_go_on(self) -> bool:
        """Whether what is written to `end` from now on would be read: not where the checkpoint
        covers all of it, for the segment of its position has vanished."""
        if self.end is None:
            return False
        return self.checkpoint is None or not self.checkpoint.covered.skips(self.end.number)

    def replay(self, apply: Apply) -> Iterator[None]:
        """Hand every frame that the checkpoint does not cover to `apply`, in the log's order, up
        to its end.  In short steps."""
        return replay(
            self._files,
            self.found,
            self.end,
            self._known,
            self._seals,
            apply,
            self._losses,
            self._counters,
            self._logger,
        )

    def forget_checkpoint(self) -> None:
        """It is of no use: replay() will begin at the beginning."""
        if self.checkpoint is not None:
            self.checkpoint.close()
            self.checkpoint = None
            self._seals = find_seals(self._files, self.found.row)

    def had(self, place: Place) -> bool:
        """Whether the frame at `place` was there."""
        return self.end is not None and place[:2] < (self.end.number, self.end.end)

    def close(self) -> None:
        """All of it was read, or nobody wants to."""
        if self.checkpoint is not None:
            self.checkpoint.close()
            self.checkpoint = None

    def _look(self, batch: Sequence[AnyRecord]) -> None:
        keys = [record[0] for record in batch if type(record) is not Seal]
        self.last_key = max([self.last_key, *keys])

    def _known(self, number: int) -> Segment | None:
        """Where replay() begins in a segment; None: not at all."""
        segment = self.found.row[number]
        row = None
        if self.checkpoint is not None:
            if self.checkpoint.covered.skips(number):
                return None
            row = self.checkpoint.covered.rows.get(number)
        if self.end is not None and number == self.end.number:
            # Commits are moving its end meanwhile.
            segment = Segment(number, segment.tag, segment.intact)
        segment.resume(row)
        return segment

    def _find_checkpoint(self) -> Checkpoint | None:
        """The one there is, if it goes with the segments there are."""
        try:
            checkpoint = Checkpoint(self._files, self.found.secret)
        except FileNotFoundError:
            return None
        except (CorruptFrame, OSError) as error:
            self._logger.warning("spool: the checkpoint is of no use: %s", error)
            return None
        reason = misfit(self._files, self.found, checkpoint.covered)
        if reason:
            self._logger.warning("spool: the checkpoint is of no use: %s", reason)
            checkpoint.close()
            return None
        return checkpoint


def misfit(files: Files, found: Survey, covered: Covered) -> str:
    """Why a checkpoint does not go with the segments there are; "" when it does.

    Segments that it knows of may be gone, for nothing in them was needed any more.  One that it
    knows for missing must not be there: what it says it does not know yet.
    """
    position = covered.position
    for number in sorted({*found.row, *found.aside}):
        name = segments.name_of(number)
        row = covered.rows.get(number)
        if row is None or not row.end:
            if number < position.segment:
                return f"it does not know {name}"
        elif number in found.aside or not found.row[number].intact:
            return f"{name} has no intact header"
        elif _size(files, name) < row.end:
            return f"{name} is shorter than it was"
    if position.serial and position.segment in found.row:
        return _position_misfit(files, found.row[position.segment], position)
    return ""


def _position_misfit(files: Files, segment: Segment, position: Row) -> str:
    """Whether another log stands where the checkpoint ended: a copy brought back, say."""
    name = segments.name_of(segment.number)
    try:
        fd = files.open(name)
        try:
            raw = files.salvage(fd, position.last, position.end - position.last)
        finally:
            files.close_file(fd)
        frame = decode(raw, 0, segment.tag)
    except (CorruptFrame, OSError) as error:
        return f"its position in {name}: {error}"
    if frame is None or frame.serial != position.serial or frame.end != len(raw):
        return f"its position in {name} is another one"
    return ""


def _size(files: Files, name: str) -> int:
    """Of a file; 0 if it cannot be opened."""
    try:
        fd = files.open(name)
    except OSError:
        return 0
    try:
        return files.size(fd)
    finally:
        files.close_file(fd)
