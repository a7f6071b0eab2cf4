"""A spool's directory, to look at only: nothing here creates, cuts, locks or changes anything.

Who holds the spool is read from the kernel's list of locks: trying the lock, for however short
a time, could turn away a process that is just starting.
"""

import errno
import logging
import os

from spool.files import LOCK, Files
from spool.quarantine import QUARANTINE

_LOCKS = "/proc/locks"
#: What st_blocks counts in, whatever the filesystem's own block is.
_BLOCK_BYTES = 512


class Viewed(Files):
    """The directory at `path`, which must exist.  Whoever may read it may look; OSError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sync = os.fdatasync
        self._lock = -1
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def holder(self) -> int | None:
        """The pid of the process that has the spool; None if nobody has.

        A holder in another pid namespace (another container) is not seen.
        """
        try:
            lock = os.stat(LOCK, dir_fd=self._directory, follow_symlinks=False)
            with open(_LOCKS) as locks:
                return holder_in(locks.read(), lock.st_dev, lock.st_ino)
        except OSError:
            return None

    def has(self, name: str) -> bool:
        """Whether there is a file of that name, or something else."""
        try:
            os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def size_of(self, name: str) -> int:
        """Bytes of the file; 0 if it cannot be asked."""
        try:
            return os.stat(name, dir_fd=self._directory, follow_symlinks=False).st_size
        except OSError:
            return 0

    def disk_bytes(self) -> int:
        """What the directory takes of the disk, the quarantine included."""
        total = 0
        for top, _, names in os.walk(self._path):
            for name in (".", *names):
                try:
                    total += os.lstat(os.path.join(top, name)).st_blocks * _BLOCK_BYTES
                except FileNotFoundError:
                    continue  # a spent segment, removed just now
        return total

    def quarantined(self) -> list[tuple[str, int]]:
        """(name, bytes) of what was kept aside; nothing through a link, where nothing is kept."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(QUARANTINE, flags, dir_fd=self._directory)
        except OSError:
            return []
        try:
            with os.scandir(fd) as entries:
                return sorted((e.name, e.stat(follow_symlinks=False).st_size) for e in entries)
        except OSError:
            return []
        finally:
            os.close(fd)

    def tighten(self, logger: logging.Logger) -> None:
        raise _refusal()

    def lock(self) -> None:
        raise _refusal()

    def create(self, name: str) -> int:
        raise _refusal()

    def remove(self, name: str) -> None:
        raise _refusal()

    def open(self, name: str, *, writable: bool = False) -> int:
        """As Files.open(); what it returns cannot be written to."""
        if writable:
            raise _refusal()
        return super().open(name)


def holder_in(locks: str, device: int, inode: int) -> int | None:
    """Who holds an flock on this file, by the text of /proc/locks: lines such as
    "1: FLOCK  ADVISORY  WRITE 4711 fe:00:2195475 0 EOF"."""
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    for line in locks.splitlines():
        words = line.split()
        # Those that only wait for a lock have "->" for their second word.
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == wanted and words[4].isdigit():
            return int(words[4])
    return None


def _refusal() -> OSError:
    return OSError(errno.EROFS, "opened to look at only")
