"""Rows of a table that lies in memory several processes share, found by 64-bit keys.

A key has its row in one window of rows, which begins where the key says; whoever looks for it looks
through all of the window.  Who gives a row to a key holds a lock on the window, one of the kernel's
(POSIX, by fcntl): a process that is killed leaves none behind.  Cells have 8 bytes, aligned, and
are written at once: no reader sees half of one.

Nobody waits long for a lock: its holder may be stopped, and would stop all others with it.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

CELL_BYTES = 8
#: Rows among which a key may be.  With a quarter of the table in use one window in 10^9 is full.
WINDOW = 16
#: Seconds to try for a lock, which is held for some 10 microseconds.
_LOCK_S = 0.002


class Busy(Exception):
    """No row, or no lock, is to be had just now."""


def key_of(*parts: object) -> int:
    """The same in all processes, and never 0.  `parts` are told apart by their repr()."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


class Rows:
    """`keys` has a cell for each row: `capacity`, a power of two, and a window of them.  0 is no
    key.  Bytes of `descriptor` are what is locked, row by row."""

    def __init__(self, keys: "memoryview[int]", capacity: int, descriptor: int) -> None:
        self._keys = keys
        self._mask = capacity - 1
        self._descriptor = descriptor

    def find(self, key: int) -> int | None:
        """The row of `key`; None: it has none."""
        start = key & self._mask
        window = self._keys[start : start + WINDOW].tolist()
        return start + window.index(key) if key in window else None

    @contextmanager
    def claimed(self, key: int, is_free: Callable[[int], bool]) -> Iterator[int]:
        """The row of `key`, which nobody else claims for as long as this lasts: if it has none, one
        that `is_free` says may be had.  Raises Busy."""
        start = key & self._mask
        self._lock(start)
        try:
            row = self.find(key)
            if row is None:
                row = next((n for n in range(start, start + WINDOW) if is_free(n)), None)
                if row is None:
                    raise Busy("a window is full")
                self._keys[row] = key
            yield row
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, WINDOW, start)

    def _lock(self, start: int) -> None:
        until = 0.0
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, WINDOW, start)
            except (BlockingIOError, PermissionError) as error:
                now = time.perf_counter()
                until = until or now + _LOCK_S
                if now > until:
                    raise Busy("a window is locked") from error
                os.sched_yield()
            else:
                return
