"""Group commit without a timer: while one sync runs, entries gather for the next.

The first writer that waits leads its group: it queues for its turn, and when the group before
is durable takes everything gathered by then to the log.  The others wait for it.  Plain
threading; under gevent the sync runs in a native thread, and here greenlets wait.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from spool.entry import Entry
from spool.errors import SpoolClosed, SpoolError, SpoolFailed
from spool.waiting import Event, Lock


class Group:
    """Entries that one commit makes durable."""

    __slots__ = ("done", "entries", "error", "finished", "led", "size_bytes")

    def __init__(self, done: Event) -> None:
        self.entries: list[Entry] = []
        self.size_bytes = 0
        self.led = False
        self.finished = False
        #: Of what is no entry of this group, and should be durable with it.
        self.error: SpoolError | None = None
        #: Set when finished.  A leader that leaves before that sets it, and leaves another.
        self.done = done


class Committer:
    """`lock` is the caller's, held for gather(): so what it decides with the lock in hand and
    what it hands in keep one order."""

    def __init__(
        self,
        commit: Callable[[Sequence[Entry]], SpoolError | None],
        lost: Callable[[Entry], None],
        lock: Lock,
        event: Callable[[], Event],
    ) -> None:
        """`commit` is called by one thread at a time; after it each entry has landed or has
        an error; it returns that of what else it should have written.  `lost` is told of those
        that will not be tried again."""
        self._commit = commit
        self._lost = lost
        self._lock = lock
        self._event = event
        self._turn = threading.Lock()
        self._gathering = Group(event())
        self._closed = False
        #: Entries of the last commit.
        self._crowd = 0

    def gathered_bytes(self) -> int:
        """Waiting for the next commit."""
        return self._gathering.size_bytes

    def gather(self, entry: Entry) -> Group:
        """Take one entry into the next commit.  The caller has the lock."""
        if self._closed:
            raise SpoolClosed("the spool is closed")
        group = self._gathering
        group.entries.append(entry)
        group.size_bytes += entry.size
        return group

    def wait(self, entry: Entry, group: Group) -> None:
        """Return once `entry`, gathered into `group`, is durable, or raise its error."""
        self.see_through(group)
        if entry.error is not None:
            raise entry.error

    def flush(self) -> SpoolError | None:
        """Commit what has gathered, and wait for what is being committed.

        Returns the error of an entry nobody waits for, if there was one.
        """
        group = self._gathering
        if group.entries:
            self.see_through(group)
        else:
            with self._turn:
                group.error = self._commit(())
        own = next((e.error for e in group.entries if e.error and not e.waits), None)
        return own or group.error

    def at_rest(self) -> AbstractContextManager[object]:
        """While it is held nothing is committed."""
        return self._turn

    def close(self) -> SpoolError | None:
        """As flush(), and nothing is taken any more."""
        with self._lock:
            self._closed = True
        return self.flush()

    def see_through(self, group: Group) -> None:
        """Return when `group` is finished; lead it if nobody does."""
        while not group.finished:
            # Taken before looking for a leader: one that leaves says so by this very event.
            done = group.done
            if group.led or not self._claim(group):
                done.wait()
            else:
                self._lead(group)

    def _claim(self, group: Group) -> bool:
        """Whether the caller leads `group`: nobody did."""
        with self._lock:
            leads = not group.led
            group.led = True
        return leads

    def _lead(self, group: Group) -> None:
        try:
            self._take_turn()
        except BaseException:
            # Killed while queueing (a greenlet may be): one of the others must take over.
            with self._lock:
                group.led = False
                done, group.done = group.done, self._event()
            done.set()
            raise
        try:
            if not group.finished:
                self._take(group)
        finally:
            # Awake before the next leader takes its turn, they can still join its group.
            group.done.set()
            self._turn.release()

    def _take_turn(self) -> None:
        """On return nobody else commits."""
        self._turn.acquire()
        if self._crowd > 1:
            # Those the last commit has woken come again at once, most of them: whoever is the
            # first of them would take a sync for himself, and the others wait.
            try:
                time.sleep(0)
            except BaseException:
                self._turn.release()
                raise

    def _take(self, group: Group) -> None:
        with self._lock:
            self._gathering = Group(self._event())
            self._crowd = len(group.entries)
        try:
            group.error = self._commit(group.entries)
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
