"""The directory that --spool names: made, looked at, locked, and closed to others.

In it each worker has a directory of its own, worker-0 and so on, of which nothing is known here.
"""

import errno
import fcntl
import logging
import os
import re
import stat
import time
from pathlib import Path
from typing import NamedTuple

from gwrelay.errors import ConfigError

logger = logging.getLogger(__name__)

_LOCK = "lock"
#: What is suspended (suspensionfile.py), and, behind a dot, what is to replace it.
SUSPENSIONS = "suspensions.json"
#: Of which hosts the postmaster was told (notices.py).
NOTICES = "notices.json"
_WORKER = re.compile(r"worker-(0|[1-9][0-9]{0,8})")
#: Seconds to wait for the workers of a gateway that was killed to be gone too: the kernel ends
#: them when it ends, and that takes a moment.
_PREDECESSOR_S = 5.0
_PORTS_S = 1.0
_LOOK_EVERY_S = 0.02


def make_directory(path: str, owner: int, group: int) -> None:
    """Make it for somebody else when it is missing.  Raises ConfigError."""
    top = Path(path)
    try:
        top.parent.mkdir(parents=True, exist_ok=True)
        top.mkdir(mode=0o700)
        os.chown(top, owner, group)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(f"--spool {path}: {error.strerror}") from error


def own_directory(path: str) -> Path:
    """`path`, made when missing.

    Refuses one that belongs to somebody else, or that holds other things: closing a
    stranger's directory to everybody would be no service.  Raises ConfigError.
    """
    top = Path(path)
    try:
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = top.stat()
        sockets = {e.name for e in os.scandir(top) if stat.S_ISSOCK(e.stat().st_mode)}
        names = os.listdir(top)
    except OSError as error:
        raise ConfigError(f"--spool {path}: {error.strerror}") from error
    if not stat.S_ISDIR(about.st_mode):
        raise ConfigError(f"--spool {path}: not a directory")
    if about.st_uid != os.geteuid():
        raise ConfigError(f"--spool {path}: belongs to user {about.st_uid}, not to us")
    # Ours, from this life or one that kill -9 ended.
    names = [name for name in names if name not in sockets]
    ours = (_LOCK, SUSPENSIONS, NOTICES, "lost+found")
    kinds = ("worker-", f"{SUSPENSIONS}.")
    strange = [n for n in names if not n.startswith(kinds) and n not in ours]
    if strange:
        raise ConfigError(f"--spool {path}: not a spool, it holds {sorted(strange)[0]!r}")
    return top


def close_to_others(top: Path) -> None:
    """When it is known that the spool is for us: one of a newer program is left as it is."""
    if top.stat().st_mode & 0o077:
        logger.warning("spool %s was open to others; its mode is 0700 now", top)
        top.chmod(0o700)


def worker_directory(top: Path, number: int) -> Path:
    return top / f"worker-{number}"


def leftovers(top: Path, workers: int) -> list[int]:
    """The numbers of workers that have a directory, though there are only `workers` now."""
    found = [_WORKER.fullmatch(entry.name) for entry in top.iterdir() if entry.is_dir()]
    return sorted(int(match[1]) for match in found if match and int(match[1]) >= workers)


class Lock(NamedTuple):
    """`descriptor` holds it, and so does whoever inherits that.  `wait_s`: for how long ports may
    be taken still, by a gateway that has only just gone."""

    descriptor: int
    wait_s: float


def lock(top: Path) -> Lock:
    """Keep every other gateway out, until all processes that have the descriptor have ended.

    Raises ConfigError with the pid of the one that has it.  The kernel holds the lock, so one
    left behind is no obstacle; the file holds our pid for people to read.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(top / _LOCK, flags, 0o600)
    except OSError as error:
        raise ConfigError(f"--spool {top}: {_LOCK}: {error.strerror}") from error
    deadline = time.monotonic() + _PREDECESSOR_S
    wait_s = 0.0
    while not _take(descriptor):
        holder = _written_in(descriptor)
        if not (holder and _is_gone(holder)) or time.monotonic() > deadline:
            os.close(descriptor)
            who = f"process {holder}" if holder else "another process"
            raise ConfigError(f"--spool {top}: is in use by {who}")
        wait_s = _PORTS_S
        time.sleep(_LOOK_EVERY_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return Lock(descriptor, wait_s)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _written_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, 20, 0).strip()
    return int(text) if text.isdigit() else None


def _is_gone(pid: int) -> bool:
    """Whether the process has ended, though perhaps nobody has asked yet how (a zombie)."""
    try:
        about = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ESRCH)
    # The name, which may hold anything, stands in parentheses.
    return about.rpartition(b")")[2].split()[0] in (b"Z", b"X")
