"""Frames read back from their segments, those that stand one behind the other with one read.

So those of a backlog do, which goes out in the order in which it came.  What has been read is not
read again: a frame that is durable stays as it is, and no two segments have the same number.
"""

import errno
from typing import NamedTuple

from spool import segment as segments
from spool.errors import CorruptFrame
from spool.files import Files
from spool.frame import AnyRecord, Frame, decode
from spool.index import Place

#: Bytes read at once for a frame that stands behind the last one, at most so many behind it.
_AT_ONCE_BYTES, _NEAR_BYTES = 64 * 1024, 4 * 1024


class _Window(NamedTuple):
    segment: int
    offset: int
    content: bytes


class ReadBack:
    """From any thread."""

    def __init__(self, files: Files) -> None:
        self._files = files
        #: Replaced as a whole.
        self._last = _Window(0, 0, b"")

    def read(self, place: Place, tag: bytes) -> list[AnyRecord]:
        """The records of the frame at `place`, in a segment with this tag.  CorruptFrame,
        OSError."""
        last = self._last
        at = place.offset - last.offset
        if place.segment == last.segment and 0 <= at <= len(last.content) + _NEAR_BYTES:
            frame = _whole(last, at, place, tag) or self._read_more(place, tag)
            if frame is not None:
                return frame.batch
        return self._read_alone(place, tag).batch

    def _read_more(self, place: Place, tag: bytes) -> Frame | None:
        """None where the disk does not give out all of that, which says nothing of the frame."""
        if place.length > _AT_ONCE_BYTES:
            return None
        try:
            last = self._window(place, _AT_ONCE_BYTES)
        except OSError:
            return None
        self._last = last
        return _whole(last, 0, place, tag)

    def _read_alone(self, place: Place, tag: bytes) -> Frame:
        try:
            last = self._window(place, place.length)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise CorruptFrame(place.offset, "unreadable") from error
        frame = decode(last.content, 0, tag)
        if frame is None:
            raise CorruptFrame(place.offset, "the segment ends")
        self._last = last
        return frame

    def _window(self, place: Place, count: int) -> _Window:
        fd = self._files.open(segments.name_of(place.segment))
        try:
            return _Window(place.segment, place.offset, self._files.read(fd, place.offset, count))
        finally:
            self._files.close_file(fd)


def _whole(window: _Window, at: int, place: Place, tag: bytes) -> Frame | None:
    """The frame at `place`, `at` in the window, if all of it was there when that was read."""
    if at + place.length > len(window.content):
        return None
    try:
        return decode(window.content, at, tag)
    except CorruptFrame:
        return None
