"""A disk for the spool that fails on order and forgets what was not synced.

The files are real; what a power loss would leave of them is kept beside, and crash() puts it
in place: everything synced, and of the rest whatever sectors `random` picks, in any order.
"""

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from spool.files import Files

SECTOR = 512


class Crash(BaseException):
    """The machine stops here."""


class Rounds(threading.Event):
    """Give it to Spool.run(): so many rounds of upkeep, without waiting."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        return self._left < 0


class _File:
    """What is durable of one file, and what was done to it since."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.unsynced: list[tuple[int, bytes | None]] = []
        self.failed = False

    def apply(self, keep: Callable[[], bool]) -> None:
        """Make those of the unsynced changes durable that `keep` wants."""
        content = bytearray(self.content)
        for offset, written in self.unsynced:
            if written is None:
                if keep():
                    del content[offset:]
                continue
            for at in range(0, len(written), SECTOR):
                if keep():
                    sector = written[at : at + SECTOR]
                    start = offset + at
                    content.extend(bytes(max(0, start - len(content))))
                    content[start : start + len(sector)] = sector
        self.content = bytes(content)
        self.unsynced = []


class FaultyDisk:
    """Survives the spools opened on it.  Give `files` to Spool(files=...)."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.path = path
        self.random = random.Random(seed)
        #: Bytes there is room for; None: no end.
        self.room: int | None = None
        #: What the next syncs of a file raise, first to last: an errno, or an exception such as
        #: is thrown into a greenlet that waits; 0 succeeds.
        self.sync_errors: list[int | BaseException] = []
        #: Calls that change something until the machine stops; None: never.
        self.calls_left: int | None = None
        #: Calls that change something until one fails, and its errno; None: all succeed.
        self.failing_call: tuple[int, int] | None = None
        self.short_writes = False
        #: errno of every write, and of every cut; 0: they succeed.
        self.write_error = 0
        self.cut_error = 0
        #: Times a file was synced again after a sync of it failed.
        self.second_syncs = 0
        #: Names synced, in order; "" for the directory.
        self.synced: list[str] = []
        self._running: FaultyFiles | None = None
        self._present: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}

    def files(self, path: str, sync: Callable[[int], None]) -> "FaultyFiles":
        for file in self._present.values():
            file.failed = False  # a new process cannot know
        self._running = FaultyFiles(path, sync, self)
        return self._running

    def call(self) -> None:
        """One more change; the last one may be the end, and one may fail."""
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Crash
        if self.failing_call is not None:
            left, error = self.failing_call
            self.failing_call = (left - 1, error) if left else None
            if not left:
                raise OSError(error, os.strerror(error))

    def content(self, name: str) -> bytes:
        """What is durable for certain."""
        return self._present[name].content

    def crash(self) -> None:
        """Lose what was not synced, or some of it, and start the machine again."""
        if self._running is not None:
            self._running.power_off()
        self.calls_left = self.room = self.failing_call = None
        self.sync_errors = []
        self.write_error = self.cut_error = 0
        for name in self._present.keys() | self._durable.keys():
            new, old = self._present.get(name), self._durable.get(name)
            survivor = self.random.choice([new, old]) if new is not old else new
            self._restore(name, survivor)
        self._present = dict(self._durable)

    def _restore(self, name: str, file: _File | None) -> None:
        path = self.path / name
        path.unlink(missing_ok=True)
        self._durable.pop(name, None)
        if file is not None:
            if any(file is other for other in self._durable.values()):
                file = _File(file.content)  # a renaming of which both names are left
            threshold = self.random.choice([0.0, 0.5, 1.0])
            file.apply(lambda: self.random.random() < threshold)
            file.failed = False
            path.write_bytes(file.content)
            path.chmod(0o600)
            self._durable[name] = file

    def created(self, name: str) -> None:
        self._present[name] = _File()

    def removed(self, name: str) -> None:
        del self._present[name]

    def renamed(self, old: str, new: str) -> None:
        self._present[new] = self._present.pop(old)

    def changed(self, name: str, offset: int, written: bytes | None) -> None:
        self._present[name].unsynced.append((offset, written))

    def sync_file(self, name: str) -> None:
        self.synced.append(name)
        # A file removed while open can be synced, and nobody will know.
        file = self._present.get(name, _File())
        self.second_syncs += file.failed
        error = self.sync_errors.pop(0) if self.sync_errors else 0
        if error:
            # Dirty pages count as clean afterwards, on the disk or not.
            file.apply(lambda: self.random.random() < 0.5)
            file.failed = True
            raise OSError(error, os.strerror(error)) if isinstance(error, int) else error
        file.apply(lambda: True)

    def sync_directory(self) -> None:
        self.synced.append("")
        self._durable = dict(self._present)


class FaultyFiles(Files):
    def __init__(self, path: str, sync: Callable[[int], None], disk: FaultyDisk) -> None:
        super().__init__(path, sync)
        self._disk = disk
        self._names: dict[int, str] = {}

    def power_off(self) -> None:
        """The process is no more: whatever it held is free."""
        for fd in list(self._names):
            self.close_file(fd)
        self.close()

    def close_file(self, fd: int) -> None:
        del self._names[fd]
        super().close_file(fd)

    def create(self, name: str) -> int:
        self._disk.call()
        if self._disk.room is not None and self._disk.room <= 0:
            raise OSError(errno.ENOSPC, "no room for a file")
        fd = super().create(name)
        self._names[fd] = name
        self._disk.created(name)
        return fd

    def open(self, name: str, *, writable: bool = False) -> int:
        fd = super().open(name, writable=writable)
        self._names[fd] = name
        return fd

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        self._disk.call()
        content = b"".join(buffers)
        if self._disk.write_error:
            raise OSError(self._disk.write_error, os.strerror(self._disk.write_error))
        if self._disk.short_writes and len(content) > 1:
            content = content[: self._disk.random.randint(1, len(content))]
        if self._disk.room is not None:
            there = max(0, self.size(fd) - offset)  # overwriting takes no room
            content = content[: there + max(0, self._disk.room)]
            if not content:
                raise OSError(errno.ENOSPC, "no room")
            self._disk.room -= max(0, len(content) - there)
        self._disk.changed(self._names[fd], offset, content)
        return super().write(fd, [content], offset)

    def cut(self, fd: int, size: int) -> None:
        self._disk.call()
        if self._disk.cut_error:
            raise OSError(self._disk.cut_error, os.strerror(self._disk.cut_error))
        self._disk.changed(self._names[fd], size, None)
        super().cut(fd, size)

    def sync(self, fd: int) -> None:
        try:
            self._disk.call()
        except OSError as error:
            self._disk.sync_errors.insert(0, error)  # dirty pages count as clean then
        self._disk.sync_file(self._names[fd])

    def sync_directory(self) -> None:
        self._disk.call()
        self._disk.sync_directory()

    def free_bytes(self) -> int:
        return 1 << 40 if self._disk.room is None else max(0, self._disk.room)

    def rename(self, old: str, new: str) -> None:
        self._disk.call()
        self._disk.renamed(old, new)
        self._names = {fd: new if name == old else name for fd, name in self._names.items()}
        super().rename(old, new)

    def remove(self, name: str) -> None:
        self._disk.call()
        self._disk.removed(name)
        super().remove(name)
