"""When a checkpoint is written: now and then while the log grows, and when the spool is closed."""

import logging
import time
from collections.abc import Callable, Iterator

from spool.checkpoint import NAME, Block, Row, Writer
from spool.commit import Committer
from spool.counters import Counters
from spool.files import Files
from spool.index import Index
from spool.log import Log
from spool.waiting import Lock

#: The log grows by this many times the size of the last checkpoint before the next, so that they
#: cost little beside it.
_GROWTH_FACTOR = 4
#: Bytes of a checkpoint written in a second, beside the work of everybody else.
_RATE_BYTES_S = 50 * 1024 * 1024


class Saver:
    def __init__(
        self,
        files: Files,
        log: Log,
        index: Index,
        committer: Committer,
        lock: Lock,
        issued: Callable[[], int],
        counters: Counters,
        logger: logging.Logger,
        growth_bytes: int,
        position: Row | None,
    ) -> None:
        """`growth_bytes` is what the log grows by, at least, before the next checkpoint: what a
        start after a crash has to replay.  `position` is that of the checkpoint there is."""
        self._growth_bytes = growth_bytes
        self._files = files
        self._log = log
        self._index = index
        self._committer = committer
        self._lock = lock
        self._issued = issued
        self._counters = counters
        self._logger = logger
        #: That of the newest checkpoint there is, or may be soon; None without one.  A frame behind
        #: it is behind those of all earlier ones.
        self.position = position
        self._writer: Writer | None = None
        self._blocks: Iterator[Block] = iter(())
        #: What the counters said when the last one was begun, and the bytes it took.
        self._frames = 0
        self._written_bytes = 0
        self._size_bytes = 0
        #: Whether the next is wanted sooner than that.
        self._is_wanted = False

    def hasten(self) -> None:
        """The checkpoint there is does as long as nothing is written, and no longer."""
        self._is_wanted = True

    def step(self) -> float | None:
        """One block, if a checkpoint is due.  → seconds to wait before the next; None: none."""
        if self._writer is None:
            grown = self._counters.written_bytes - self._written_bytes
            is_due = grown >= max(self._growth_bytes, _GROWTH_FACTOR * self._size_bytes)
            if not is_due and not (self._is_wanted and grown):
                return None
        began = time.monotonic()
        written = self._advance()
        if not written:
            return None
        return max(0.0, written / _RATE_BYTES_S - (time.monotonic() - began))

    def save(self, is_covered: bool) -> None:
        """All of one, now, if anything has changed since the last, or since the start, when
        there was one that covered it all (`is_covered`)."""
        unchanged = self._counters.frames == self._frames
        if self._writer is None and unchanged and (self._frames or is_covered):
            return
        self._abandon()  # it would not cover the end
        while self._advance():
            pass

    def forget(self) -> None:
        """Take the checkpoint away, durably, and the one being written.  OSError."""
        self._abandon()
        self.position = None
        if NAME in self._files.names():
            self._files.remove(NAME)
            self._files.sync_directory()

    def _advance(self) -> int:
        """Begin one, or go on.  → bytes written; 0 at its end, whatever that was."""
        try:
            if self._writer is None and not self._begin():
                return 0
            assert self._writer is not None
            with self._lock:
                block = next(self._blocks, None)
            if block is not None:
                written = self._writer.add(block)
                self._counters.checkpoint_bytes += written
                return written
            self._size_bytes = self._writer.finish()
        except OSError as error:
            self._logger.warning("spool: no checkpoint could be written: %s", error)
            self._abandon()
        self._writer = None
        return 0

    def _abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _begin(self) -> bool:
        self._written_bytes = self._counters.written_bytes
        # The position comes first, then the content, which may be newer.
        with self._committer.at_rest(), self._lock:
            covered = self._log.covered(self._issued(), self._index.segments_needed())
            frames = self._counters.frames
        if covered is None:
            return False
        self._is_wanted = False
        self.position = covered.position
        self._writer = Writer(self._files, self._log.secret, covered)
        self._blocks = self._index.dump()
        self._frames = frames
        return True
