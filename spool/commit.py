"""Group commit without a timer: while one sync runs, entries gather for the next.

The first writer that waits leads its group: it queues for its turn, and when the group before
is durable takes everything gathered by then to the log.  The others wait for it.  Plain
threading; under gevent the sync runs in a native thread, and here greenlets wait.
"""

import threading
from collections.abc import Callable, Sequence

from spool.errors import SpoolClosed, SpoolError, SpoolFailed
from spool.log import Entry


class _Group:
    """Entries that one commit makes durable."""

    __slots__ = ("done", "entries", "finished", "led", "size_bytes")

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.size_bytes = 0
        self.led = False
        self.finished = False
        #: Set when finished, and when its leader left before that.
        self.done = threading.Event()


class Committer:
    def __init__(
        self, commit: Callable[[Sequence[Entry]], None], lost: Callable[[Entry], None]
    ) -> None:
        """`commit` is called by one thread at a time; after it each entry has landed or has
        an error.  `lost` is told of those that will not be tried again."""
        self._commit = commit
        self._lost = lost
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._gathering = _Group([])
        self._closed = False

    def gathered_bytes(self) -> int:
        """Waiting for the next commit."""
        return self._gathering.size_bytes

    def write(self, entry: Entry) -> None:
        """Hand in one entry.  If it waits: returns once it is durable, or raises its error."""
        with self._lock:
            if self._closed:
                raise SpoolClosed("the spool is closed")
            group = self._gathering
            group.entries.append(entry)
            group.size_bytes += len(entry.body)
        if entry.waits:
            self._see_through(group)
            if entry.error is not None:
                raise entry.error

    def flush(self) -> SpoolError | None:
        """Commit what has gathered, and wait for what is being committed.

        Returns the error of an entry nobody waits for, if there was one.
        """
        group = self._gathering
        if group.entries:
            self._see_through(group)
        else:
            with self._turn:
                self._commit(())
        return next((e.error for e in group.entries if e.error and not e.waits), None)

    def close(self) -> SpoolError | None:
        """As flush(), and nothing is taken any more."""
        with self._lock:
            self._closed = True
        return self.flush()

    def _see_through(self, group: _Group) -> None:
        """Return when `group` is finished; lead it if nobody does."""
        while not group.finished:
            with self._lock:
                leads = not group.led
                group.led = True
            if leads:
                self._lead(group)
            else:
                group.done.wait()

    def _lead(self, group: _Group) -> None:
        try:
            self._turn.acquire()
        except BaseException:
            # Killed while queueing (a greenlet may be): one of the others must take over.
            with self._lock:
                group.led = False
            group.done.set()
            raise
        try:
            if not group.finished:
                self._take(group)
        finally:
            # Awake before the next leader takes its turn, they can still join its group.
            group.done.set()
            self._turn.release()

    def _take(self, group: _Group) -> None:
        with self._lock:
            self._gathering = _Group([])
        try:
            self._commit(group.entries)
        finally:
            refused = [entry for entry in group.entries if not entry.landed]
            if refused:
                self._sort_out(refused)
            group.finished = True

    def _sort_out(self, refused: Sequence[Entry]) -> None:
        for entry in refused:
            entry.error = entry.error or SpoolFailed("the commit was interrupted")
            if not entry.kept:
                self._lost(entry)
        kept = [entry for entry in refused if entry.kept]
        with self._lock:
            # Ahead of what has gathered meanwhile: the log's order is the order of writing.
            self._gathering.entries[:0] = kept
