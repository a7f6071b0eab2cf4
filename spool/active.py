"""The segment being written: frames behind its tail, and how far it is durable."""

import errno
from collections.abc import Sequence

from spool.counters import Counters
from spool.entry import Entry
from spool.files import BUFFERS_AT_ONCE, Files, is_full
from spool.frame import header
from spool.recovery import Segment


class Active(Segment):
    """`end` and `serial` are those of the last good sync, `tail` and `tail_serial` of the last
    whole frame written."""

    __slots__ = ("closing", "counters", "fd", "files", "fresh", "notes", "tail", "tail_serial")

    def __init__(self, number: int, tag: bytes, fd: int, files: Files, counters: Counters) -> None:
        super().__init__(number, tag)
        self.fd = fd
        self.files = files
        self.counters = counters
        self.tail = self.end
        self.tail_serial = self.serial
        #: Nothing but seals in it yet: takes a frame of any size.
        self.fresh = True
        #: Takes no more notes, for it is about to end.
        self.closing = False
        #: Written behind the back of the commits, in order, and in none of them yet.
        self.notes: list[Entry] = []

    def write(self, entries: Sequence[Entry]) -> tuple[int, OSError | None]:
        """Write `entries` behind the tail.  → how many are there whole, and what stopped it.

        What is there of one more is not cut off, and the next write goes over it.
        """
        buffers: list[bytes | memoryview] = []
        number, tag, serial, tail = self.number, self.tag, self.tail_serial, self.tail
        for entry in entries:
            serial += 1
            body = entry.body
            buffers += header(tag, serial, len(body), entry.crc), body
            entry.segment = number
            entry.offset = tail
            tail += entry.size
        written, error = self._write(buffers, self.tail)
        reached, count = self.tail + written, len(entries)
        while count and tail > reached:
            count -= 1
            serial -= 1
            tail -= entries[count].size
        self.tail_serial, self.tail = serial, tail
        self.fresh = self.fresh and not count
        return count, error

    def begin(self, body: bytes, crc: int) -> None:
        """Write the log's own first frame.  OSError."""
        frame = header(self.tag, 1, len(body), crc) + body
        _, error = self._write([frame], self.tail)
        if error is not None:
            raise error
        self.tail_serial = 1
        self.tail += len(frame)

    def mend(self, error: OSError) -> OSError | None:
        """Cut off the partial frame that `error` has left, so that no part of it stands behind a
        later, shorter one.  → None, or why the segment cannot be used any more."""
        if not is_full(error):
            return error
        try:
            self.files.cut(self.fd, self.tail)
        except OSError as ruin:
            return ruin
        return None

    def _write(self, buffers: list[bytes | memoryview], offset: int) -> tuple[int, OSError | None]:
        """All buffers, however short the single writes.  → bytes written, what stopped it."""
        written, wanted = 0, sum(map(len, buffers))
        try:
            while buffers:
                count = self.files.write(self.fd, buffers[:BUFFERS_AT_ONCE], offset + written)
                if not count:
                    return written, OSError(errno.ENOSPC, "nothing was written")
                written += count
                if written == wanted:
                    break
                buffers = _after(buffers, count)
        except OSError as error:
            return written, error
        finally:
            self.counters.written_bytes += written
        return written, None


def _after(buffers: list[bytes | memoryview], count: int) -> list[bytes | memoryview]:
    """What remains of `buffers` when the first `count` bytes are written."""
    for n, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[n + 1 :]]
        count -= len(buffer)
    return []
