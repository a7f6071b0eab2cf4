"""Where the next segment's file comes from: spares, filled and synced ahead of need.

A sync of bytes that lie where zeros (or old frames) were durable commits no file metadata.
Nothing depends on a spare: without one, or when it fails, a new and empty file does.

    take     header -> sync -> rename -> sync of the directory; frames only after that, so that
             no number is given twice with its tag in a file
    give     rename -> sync of the directory -> ready; not written to before
"""

import logging
from collections.abc import Mapping

from spool import segment as segments
from spool.counters import Counters
from spool.files import Files
from spool.segment import VERSION, Header

#: Spent segments kept for reuse; the rest is deleted.
_KEPT = 2
#: Bytes written between two syncs of a file being filled: what a commit may have to wait behind.
_STEP = 1024 * 1024
#: Rounds of upkeep without another try, after a spare could not be made.
_PAUSE_ROUNDS = 40


class Supply:
    """take() runs beside the other methods, of which one runs at a time."""

    def __init__(
        self, files: Files, segment_bytes: int, counters: Counters, logger: logging.Logger
    ) -> None:
        self._files = files
        self._segment_bytes = segment_bytes
        self._counters = counters
        self._logger = logger
        self._secret = b""
        #: Names of spares that may be taken, and of those whose names are not durable yet.
        self._ready: list[str] = []
        self._coming: list[str] = []
        self._next = 1
        self._pause = 0

    def open(self, spares: Mapping[str, Header | None], secret: bytes) -> int:
        """Keep what can be used of `spares`.  → the highest number one of them had."""
        self._secret = secret
        self._next = 1 + max((segments.spare_number_of(name) or 0 for name in spares), default=0)
        for name, header in spares.items():
            usable = header is not None and header[::2] == (VERSION, secret)
            if usable and len(self._ready) < _KEPT and self._is_whole(name):
                self._ready.append(name)
            else:
                self._discard(name)
        return max((header.number for header in spares.values() if header), default=0)

    @property
    def has_spare(self) -> bool:
        """Whether take() has one that takes up no more of the disk."""
        return bool(self._ready)

    def take(self, header: Header, size: int) -> int:
        """The file of segment `header.number`, the header in it, its name durable.  OSError.

        For a frame of `size` bytes; one that does not fit gets a new file, to grow as it must.
        """
        while size + 2 * segments.FIRST <= self._segment_bytes:
            try:
                spare = self._ready.pop()
            except IndexError:
                break
            try:
                return self._use(spare, header)
            except OSError as error:
                self._logger.error("spool: %s cannot be used: %s", spare, error)
        name = segments.name_of(header.number)
        return self._named(name, self._files.create(name), header)

    def give_back(self, number: int, sound: bool) -> None:
        """Segment `number` is spent: keep its file, if `sound`, or delete it.  OSError."""
        name = segments.name_of(number)
        if not sound or len(self._ready) + len(self._coming) >= _KEPT or not self._is_whole(name):
            self._files.remove(name)
            return
        spare = self._new_name()
        self._files.rename(name, spare)
        self._coming.append(spare)

    def settle(self) -> None:
        """Make what was given back, or deleted, durable.  OSError."""
        self._files.sync_directory()
        self._ready += self._coming
        self._coming = []

    def prepare(self) -> None:
        """Make a spare if there is none.  Leaves room on the disk for those who write now."""
        if self._ready or self._files.free_bytes() < 2 * self._segment_bytes:
            return
        if self._pause:
            self._pause -= 1
            return
        name = self._new_name()
        try:
            self._make(name)
        except OSError as error:
            self._pause = _PAUSE_ROUNDS
            self._logger.warning("spool: no spare segment can be made: %s", error)
        else:
            self._ready.append(name)

    def _make(self, name: str) -> None:
        fd = self._files.create(name)
        try:
            self._fill(fd)
            self._files.sync_directory()
        except BaseException:
            self._discard(name)
            raise
        finally:
            self._files.close_file(fd)

    def _fill(self, fd: int) -> None:
        zeros = memoryview(bytes(min(_STEP, self._segment_bytes)))
        at = 0
        while at < self._segment_bytes:
            step = zeros[: self._segment_bytes - at]
            if at == 0:
                block = segments.header_block(Header(VERSION, 0, self._secret))
                step = memoryview(block.ljust(len(step), b"\0"))
            self._write(fd, step, at)
            self._files.sync(fd)
            at += len(step)

    def _write(self, fd: int, content: bytes | memoryview, offset: int) -> None:
        self._files.write_all(fd, content, offset)
        self._counters.supply_bytes += len(content)

    def _use(self, spare: str, header: Header) -> int:
        """The header is durable before the name: no segment ever has another's header."""
        name = spare
        fd = self._files.open(spare, writable=True)
        try:
            self._write(fd, segments.header_block(header), 0)
            self._files.sync(fd)
            self._files.rename(spare, segments.name_of(header.number))
            name = segments.name_of(header.number)
            self._files.sync_directory()
        except BaseException:
            self._files.close_file(fd)
            self._discard(name)
            raise
        return fd

    def _named(self, name: str, fd: int, header: Header) -> int:
        """A new file with its header, which the first sync of a frame makes durable as well."""
        try:
            self._write(fd, segments.header_block(header), 0)
            self._files.sync_directory()
        except BaseException:
            self._files.close_file(fd)
            self._discard(name)
            raise
        return fd

    def _is_whole(self, name: str) -> bool:
        """Filled to its size, and known by no other name."""
        try:
            fd = self._files.open(name)
        except OSError:
            return False
        try:
            return self._files.size(fd) == self._segment_bytes and self._files.links(fd) == 1
        finally:
            self._files.close_file(fd)

    def _new_name(self) -> str:
        number, self._next = self._next, self._next + 1
        return segments.spare_name_of(number)

    def _discard(self, name: str) -> None:
        """Delete it, if that is possible; nothing depends on it."""
        try:
            self._files.remove(name)
        except OSError as error:
            self._logger.error("spool: %s cannot be removed: %s", name, error)
