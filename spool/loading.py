"""Bringing the index up to date at a start: the checkpoint, and the log's tail behind it.

    verify the checkpoint  ->  replay what it does not cover  ->  admit it, block by block

The tail comes first, so that a key the checkpoint brings is up to date at once and may be given
out, amended and dropped while the rest is still to come.  Without a checkpoint all of the log is
replayed before the first key is given out.  New keys come and go meanwhile; they are above all
that the log had when it was opened.
"""

import logging
from bisect import bisect_right
from collections.abc import Generator, Iterator
from itertools import islice

from spool.checkpoint import KEYS, Checkpoint
from spool.errors import CorruptFrame
from spool.frame import AnyRecord
from spool.index import ANY_KEY, SLICE_KEYS, Index, Place
from spool.log import Log
from spool.losses import Losses
from spool.past import Past
from spool.waiting import Lock, locked


class Loader:
    def __init__(
        self,
        log: Log,
        past: Past,
        index: Index,
        lock: Lock,
        losses: Losses,
        logger: logging.Logger,
    ) -> None:
        """`past` is what `log` was when it was opened."""
        self._log = log
        self._past = past
        self._index = index
        self._lock = lock
        self._losses = losses
        self._logger = logger
        self._last_key = past.last_key
        #: Whether every key was given out.
        self.is_done = False
        #: Whether a checkpoint says all that the log did.
        self.is_covered = False
        #: Whether segments are missing of which it does not say so.
        self.has_missed = False
        self._is_replayed = False
        #: Blocks of the checkpoint that were admitted.
        self._blocks = 0
        #: Keys that live by what was replayed, and how many of them were given out.
        self._by_log: list[int] = []
        self._given = 0

    def run(self) -> Iterator[list[int]]:
        """Every key that lives, once, ascending, in small lists; empty ones are for taking
        breath.  Raises OSError; called again, goes on where it was."""
        if not self._is_replayed:
            yield from self._replay()
        if self._past.checkpoint is not None:
            yield from self._admit(self._past.checkpoint)
        yield from self._finish()
        while self._given < len(self._by_log):
            yield self._next_old(min(self._given + SLICE_KEYS, len(self._by_log)))
        # Before that nothing may move: a key's place says whether it is an old one.
        self.is_done = True

    def close(self) -> None:
        """Nobody wants the rest."""
        self._past.close()

    def _replay(self) -> Iterator[list[int]]:
        """The log's tail, from its beginning: said twice, it says the same."""
        checkpoint = yield from self._sound_checkpoint()
        if checkpoint is not None:
            self._index.expect(ANY_KEY)
            self.is_covered = True
        for _ in self._past.replay(self._apply):
            yield []
        yield from self._order()
        if checkpoint is not None:
            with self._lock:
                self._index.expect(max(checkpoint.covered.last_key, self._index.last_key))
        self._is_replayed = True

    def _order(self) -> Iterator[list[int]]:
        """Put in order the keys that live by what was replayed."""
        self._by_log.clear()
        for keys in locked(self._lock, self._index.slices()):
            self._by_log += keys
            yield []

    def _sound_checkpoint(self) -> Generator[list[int], None, Checkpoint | None]:
        checkpoint = self._past.checkpoint
        if checkpoint is None:
            return None
        try:
            for _ in checkpoint.verify():
                yield []
        except (CorruptFrame, OSError) as error:
            self._logger.warning("spool: the checkpoint is of no use: %s", error)
            self._past.forget_checkpoint()
            return None
        return checkpoint

    def _admit(self, checkpoint: Checkpoint) -> Iterator[list[int]]:
        """The checkpoint's keys, and among them, in order, those that the tail put."""
        # When nothing was written since, nothing can have ended: then a segment that is gone
        # was not removed by us, and its keys are damaged.  Nor was one that was missing already.
        covered = checkpoint.covered
        known = covered.rows if self.is_covered else covered.missing
        present = frozenset([*known, *self._log.present()])
        for block in islice(checkpoint.content(), self._blocks, None):
            with self._lock:
                admitted = self._index.admit(block, present)
            self._blocks += 1
            upto = self._given
            if block[0] == KEYS and block[1]:
                # Up to the end of the block, whichever of its keys live: or those that the tail
                # put again, all of a checkpoint perhaps, would come in one list.
                upto = bisect_right(self._by_log, block[1][-1], upto)
            yield sorted(admitted + self._next_old(upto))

    def _next_old(self, upto: int) -> list[int]:
        """Those of the next keys that the log had when it was opened."""
        keys, self._given = self._by_log[self._given : upto], upto
        with self._lock:
            return [
                key for key in keys if key in self._index and self._past.had(self._index.place(key))
            ]

    def _apply(self, place: Place, batch: list[AnyRecord]) -> None:
        self.is_covered = False
        with self._lock:
            self._index.apply(place, batch)

    def _finish(self) -> Iterator[list[int]]:
        checkpoint = self._past.checkpoint
        # Also those that nothing is needed of any more: the checkpoint does not know that.
        told = set() if checkpoint is None else checkpoint.covered.missing
        self._past.close()
        with self._lock:
            self._index.forget_orphans(self._last_key)
            needed = self._index.segments_needed()
            missing = needed - set(self._log.present())
            self._log.miss(told | missing)
            self._index.expect_no_more(self._log.present())
        self.has_missed = not missing <= told
        for number in sorted(missing):
            yield from self._tell_missing(number)

    def _tell_missing(self, number: int) -> Iterator[list[int]]:
        damaged: list[int] = []
        for keys in locked(self._lock, self._index.slices()):
            with self._lock:
                damaged += [key for key in keys if self._index.rests_on(key, number)]
            yield []
        self._logger.error(
            "spool: segment %d is missing, and was needed%s",
            number,
            f" by {self._losses.listed(damaged)}" if damaged else "",
        )
