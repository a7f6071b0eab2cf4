"""What was found damaged, kept aside for people before it is cut or its segment goes.

One file for each stretch of bytes, in the directory `quarantine` of the spool, which is made when
it is first needed.  Nobody reads them back but people, nobody removes them but people.  Keeping
is worth less than starting: whatever goes wrong in keep() is logged, and told to its caller.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from zlib import crc32

from spool.errors import SpoolError
from spool.files import Files

QUARANTINE = "quarantine"
#: Bytes of all files together; past it findings are only logged.  A disk that goes bad finds
#: something at each start, and must not fill itself with that.
LIMIT_BYTES = 64 * 1024 * 1024
#: What the smallest file counts for, as it takes that much of the disk.
_BLOCK_BYTES = 4096
_SECTOR_BYTES = 512
_WINDOW = 1024 * 1024

Read = Callable[[int, int], bytes]


class Quarantine:
    def __init__(
        self, files: Files, logger: logging.Logger, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self._files = files
        self._logger = logger
        self._limit_bytes = limit_bytes

    def keep(self, read: Read, segment: int, offset: int, size: int) -> bool:
        """Keep `size` bytes of the segment at `offset`, or as many as there are, durably.

        Not the zeros at their end, which a file is filled with ahead of need; not twice what
        an earlier start found too.  Never fails.  → whether they are there.
        """
        try:
            size, crc = _extent(read, offset, size)
            if size:
                name = f"{segment:012}-{offset}-{crc:08x}.damaged"
                with contextlib.closing(self._files.subdirectory(QUARANTINE)) as directory:
                    self._keep_as(directory, name, read, offset, size)
        except (OSError, SpoolError) as error:
            self._logger.error(
                "spool: %d bytes of segment %d at %d could not be kept aside: %s",
                size,
                segment,
                offset,
                error,
            )
            return False
        return True

    def _keep_as(self, directory: Files, name: str, read: Read, offset: int, size: int) -> None:
        sizes = {each: _size_of(directory, each) for each in directory.names()}
        if sizes.get(name) == size:
            return
        if name in sizes:
            directory.remove(name)  # a crash ended the start that was writing it
            del sizes[name]
        taken = sum(max(each, _BLOCK_BYTES) for each in sizes.values())
        if taken + max(size, _BLOCK_BYTES) > self._limit_bytes:
            raise OSError(errno.EDQUOT, f"the quarantine holds {taken} bytes; empty it")
        _write(directory, name, _windows(read, offset, size))
        self._logger.warning("spool: %d bytes kept aside as %s/%s", size, QUARANTINE, name)


def set_aside(path: str | os.PathLike[str], name: str, parts: Iterable[bytes]) -> None:
    """Keep `parts` as the file `name` in the quarantine of the spool at `path`, durably, in place
    of one of that name.  For whoever has the spool; without a bound.  OSError, SpoolOwner."""
    kept = os.path.join(path, QUARANTINE)
    with contextlib.closing(Files(kept, os.fdatasync, follow=False)) as directory:
        if name in directory.names():
            directory.remove(name)
        _write(directory, name, parts)


def _extent(read: Read, offset: int, size: int) -> tuple[int, int]:
    """How far to keep: to the end of the sector with the last byte that is not zero, for frames
    may end in some zeros.  And a CRC-32 of all up to that byte."""
    extent = end = crc = 0
    for at in range(0, size, _WINDOW):
        raw = read(offset + at, min(_WINDOW, size - at))
        content = raw.rstrip(b"\0")
        if content:
            # Zeros within, of earlier windows, count now.
            crc = _crc_of_zeros(at - extent, crc)
            crc = crc32(content, crc)
            extent = at + len(content)
        if not raw:
            break  # the file ends here
        end = at + len(raw)
    return min(end, -(-extent // _SECTOR_BYTES) * _SECTOR_BYTES), crc


def _crc_of_zeros(count: int, crc: int) -> int:
    while count > 0:
        crc = crc32(bytes(min(count, _WINDOW)), crc)
        count -= _WINDOW
    return crc


def _size_of(directory: Files, name: str) -> int:
    try:
        fd = directory.open(name)
    except OSError:
        return 0  # somebody else's, whatever it is
    try:
        return directory.size(fd)
    finally:
        directory.close_file(fd)


def _windows(read: Read, offset: int, size: int) -> Iterator[bytes]:
    for at in range(0, size, _WINDOW):
        yield read(offset + at, min(_WINDOW, size - at))


def _write(directory: Files, name: str, parts: Iterable[bytes]) -> None:
    """A whole, durable file, or none."""
    fd = directory.create(name)
    try:
        done = 0
        for part in parts:
            directory.write_all(fd, part, done)
            done += len(part)
        directory.sync(fd)
        directory.sync_directory()
    except BaseException:
        with contextlib.suppress(OSError):
            directory.remove(name)
        raise
    finally:
        directory.close_file(fd)
