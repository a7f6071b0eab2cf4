"""The only place that calls `os`: one directory, the files in it, and who may have it.

Knows nothing of records or segments.  Names are relative to the directory's descriptor, so a
directory renamed under us stays ours.  Nothing here syncs on its own: the caller's order of
write, sync and sync_directory is what makes the log safe.
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Sequence

from spool.errors import SpoolLocked, SpoolOwner

LOCK = "lock"
#: Buffers one pwritev takes (IOV_MAX on Linux).
BUFFERS_AT_ONCE = 1024
#: What cannot be read is skipped in steps of this many bytes: a page, as the kernel reads.
_PAGE = 4096


def is_full(error: OSError) -> bool:
    """No room, now: disk, quota, or the process's limit on file size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Files:
    """The directory at `path`, created 0700 when missing.  Raises SpoolOwner, OSError; the
    latter for a link, too, unless it may `follow` one.

    `sync(fd)` makes file content durable (and directory entries, for a directory's descriptor);
    it alone may take long, and touches nothing but the descriptor.
    """

    def __init__(self, path: str, sync: Callable[[int], None], *, follow: bool = True) -> None:
        self._path = path
        self._sync = sync
        self._lock = -1
        self._directory = _open_directory(path, sync, follow)

    def tighten(self, logger: logging.Logger) -> None:
        """Take away what others may do with the directory.  Files in it are made 0600."""
        mode = stat.S_IMODE(os.fstat(self._directory).st_mode)
        if mode != 0o700:
            logger.warning("spool %s had mode %04o, now 0700", self._path, mode)
            os.fchmod(self._directory, 0o700)

    def lock(self) -> None:
        """Keep every other process out until close() or our end, however that comes.

        Raises SpoolLocked.  The kernel holds the lock, so one left behind is no obstacle; the
        file holds our pid for people to read.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(LOCK, flags, 0o600, dir_fd=self._directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).strip()
            os.close(fd)
            raise SpoolLocked(self._path, int(holder) if holder.isdigit() else None) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._lock = fd

    def names(self) -> list[str]:
        return os.listdir(self._directory)

    def create(self, name: str) -> int:
        """A new, empty file to read and write.  Never an existing one, never through a link."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._directory)
        os.fchmod(fd, 0o600)  # whatever the umask
        return fd

    def open(self, name: str, *, writable: bool = False) -> int:
        """An existing regular file.  OSError for links and anything else."""
        access = os.O_RDWR if writable else os.O_RDONLY
        # O_NONBLOCK: a fifo of that name must not hold us up before it is refused.
        flags = access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(name, flags, dir_fd=self._directory)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "not a regular file", name)
        return fd

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, offset: int, count: int) -> bytes:
        """`count` bytes, fewer only where the file ends."""
        parts = []
        while count > 0:
            part = os.pread(fd, count, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def salvage(self, fd: int, offset: int, count: int) -> bytes:
        """As read(), with zeros in place of pages the disk does not give back."""
        try:
            return self.read(fd, offset, count)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            if count <= _PAGE:
                return bytes(max(0, min(count, self.size(fd) - offset)))
        return b"".join(
            self.salvage(fd, at, min(_PAGE, offset + count - at))
            for at in range(offset, offset + count, _PAGE)
        )

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """One pwritev, at most BUFFERS_AT_ONCE buffers.  → bytes written, perhaps not all."""
        return os.pwritev(fd, buffers, offset)

    def write_all(self, fd: int, content: bytes | memoryview, offset: int) -> None:
        """All of it, however short the single writes.  OSError."""
        rest = memoryview(content)
        while rest:
            count = self.write(fd, [rest], offset)
            if not count:
                raise OSError(errno.ENOSPC, "nothing was written")
            rest = rest[count:]
            offset += count

    def cut(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        self._sync(fd)

    def sync_directory(self) -> None:
        """Makes creations, renamings and removals durable."""
        self._sync(self._directory)

    def free_bytes(self) -> int:
        """Room on the disk for such as us."""
        found = os.fstatvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def links(self, fd: int) -> int:
        """Names the file has."""
        return os.fstat(fd).st_nlink

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._directory)

    def remove_directory(self, name: str) -> None:
        """One in this, which must be empty."""
        os.rmdir(name, dir_fd=self._directory)

    def remove_itself(self) -> None:
        """This directory, which must be empty but for the lock."""
        self.remove(LOCK)
        os.rmdir(self._path)

    def close_file(self, fd: int) -> None:
        os.close(fd)

    def subdirectory(self, name: str) -> "Files":
        """The directory `name` in this one, created 0700 when missing.  SpoolOwner, OSError, also
        for a link."""
        return Files(os.path.join(self._path, name), self._sync, follow=False)

    def close(self) -> None:
        """Let go of the directory and the lock."""
        for fd in (self._lock, self._directory):
            if fd >= 0:
                os.close(fd)
        self._lock = self._directory = -1


def _open_directory(path: str, sync: Callable[[int], None], follow: bool) -> int:
    parent = os.path.dirname(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
        created = True
    except FileExistsError:
        created = False
    no_link = 0 if follow else os.O_NOFOLLOW
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | no_link)
    owner = os.fstat(fd).st_uid
    if owner != os.geteuid():
        os.close(fd)
        raise SpoolOwner(path, owner, os.geteuid())
    if created:
        os.fchmod(fd, 0o700)  # whatever the umask
        _sync_parent(parent, sync)
    return fd


def _sync_parent(parent: str, sync: Callable[[int], None]) -> None:
    """A spool whose own directory entry is lost has lost everything."""
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd)
    finally:
        os.close(fd)
