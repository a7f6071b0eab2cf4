"""Compaction: the living records of mostly dead segments are copied to the end of the log.

    pick the emptiest sealed segment  ->  copy what is needed of it, in bites  ->  once all
    copies are durable and nothing in it lives, the file is given back

A crash at any step costs nothing: until the copies are durable the originals count, afterwards
the copies do, and both together say the same.  What a copy must say (the newest state, whatever
is on its way into the log) is decided by the spool, which has the lock; see Spool._copy().
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from spool.errors import SpoolError
from spool.frame import AnyRecord
from spool.index import Place

#: Bytes or records read before what is needed of them is copied, in one commit with whatever else
#: waits for it: what a writer may have to wait for besides.  DROPs are small: of these alone, ten
#: thousand in so many bytes took 0.1 s.
BITE_BYTES = 256 * 1024
BITE_RECORDS = 256
#: Seconds without another try after the disk refused a copy.
_PAUSE_S = 10.0

Frame = tuple[Place, Sequence[AnyRecord]]


class Usage(NamedTuple):
    """A sealed segment: bytes of its frames, and bytes that the records still needed count."""

    number: int
    used_bytes: int
    living_bytes: int

    @property
    def dead_share(self) -> float:
        if self.used_bytes <= 0:
            return 1.0
        return min(1.0, max(0.0, 1 - self.living_bytes / self.used_bytes))


class Source(Protocol):
    """The spool, as far as compaction needs it."""

    def usage(self) -> list[Usage]: ...
    def frames(self, number: int) -> Iterator[Frame]:
        """What verifies in a segment, in order.  OSError."""

    def copy(self, frames: Sequence[Frame]) -> int:
        """Copy what is needed of `frames`; on return it is durable.  → bytes.  SpoolError."""

    def release(self, number: int) -> bool:
        """Give the segment's file back; False when something in it still lives.  OSError."""


def emptiest(usage: Iterable[Usage], ratio: float) -> Usage | None:
    """The segment with the largest dead share above `ratio`; the oldest of equal ones."""
    above = [one for one in usage if one.dead_share > ratio]
    return min(above, key=lambda one: (-one.dead_share, one.number), default=None)


class Compactor:
    def __init__(
        self,
        source: Source,
        logger: logging.Logger,
        *,
        ratio: float,
        rate_bytes_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ratio` is the dead share above which a segment is compacted; `rate_bytes_s` bounds
        what is read of them, and so what is copied."""
        self._source = source
        self._logger = logger
        self._ratio = ratio
        self._rate_bytes_s = rate_bytes_s
        self._clock = clock
        self._work: Iterator[int] | None = None
        self._rests_until = float("-inf")
        #: Segments with damaged or unreadable records: these cannot be copied, and stay.
        self._stuck: set[int] = set()

    def step(self) -> float | None:
        """One bite.  → seconds to wait before the next, None when there is nothing to do."""
        began = self._clock()
        if began < self._rests_until:
            return None
        if self._work is None:
            usage = [one for one in self._source.usage() if one.number not in self._stuck]
            victim = emptiest(usage, self._ratio)
            if victim is None:
                return None
            self._work = self._compact(victim.number)
        try:
            read_bytes = next(self._work, None)
        except (SpoolError, OSError) as error:
            self._work = None
            self._rests_until = began + _PAUSE_S
            self._logger.warning("spool: compaction stops for a while: %s", error)
            return None
        if read_bytes is None:
            self._work = None
            return 0.0
        return max(0.0, read_bytes / self._rate_bytes_s - (self._clock() - began))

    def _compact(self, number: int) -> Iterator[int]:
        """Bite by bite; yields the bytes of each."""
        bite: list[Frame] = []
        size = records = 0
        for place, batch in self._source.frames(number):
            bite.append((place, batch))
            size += place.length
            records += len(batch)
            if size >= BITE_BYTES or records >= BITE_RECORDS:
                self._source.copy(bite)
                yield size
                bite, size, records = [], 0, 0
        if bite:
            self._source.copy(bite)
            yield size
        if not self._source.release(number):
            self._stuck.add(number)
            self._logger.error("spool: segment %d has records that cannot be copied", number)
