"""Compaction: the living records of mostly dead segments are copied to the end of the log.

    pick the emptiest sealed segment  ->  copy what is needed of it, in bites  ->  once all
    copies are durable and nothing in it lives, the file is given back

In the background a segment that empties by itself, as those do whose backlog is delivered, is left
alone for a few seconds: most of what would be copied is about to die.

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
#: A segment empties by itself if it has lost this share of what lived in it since the last look;
#: seconds between two looks; and how many of them it is left alone for.  So what waits for this
#: takes no more room than what died in so many seconds.
_EMPTIES_BY, _LOOK_EVERY_S, _LOOKS = 0.125, 1.0, 10

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


class Emptying:
    """Which segments empty by themselves, going by what lived in each at the last looks."""

    def __init__(self) -> None:
        #: By number: living bytes, and looks in a row that found less and less of them.
        self._seen: dict[int, tuple[int, int]] = {}
        self._looked_at = float("-inf")

    def without(self, usage: Iterable[Usage], now: float) -> list[Usage]:
        """Those of all there are that do not."""
        found = list(usage)
        if now >= self._looked_at + _LOOK_EVERY_S:
            self._looked_at = now
            self._seen = {one.number: (one.living_bytes, self._looks(one)) for one in found}
        return [one for one in found if not self._seen.get(one.number, (0, 0))[1]]

    def _looks(self, one: Usage) -> int:
        before, looks = self._seen.get(one.number, (0, 0))
        if not before or one.living_bytes > before * (1 - _EMPTIES_BY) or looks == _LOOKS:
            return 0
        return looks + 1


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
        self._emptying = Emptying()

    def step(self, *, at_once: bool = False) -> float | None:
        """One bite.  → seconds to wait before the next, None when there is nothing to do, or,
        unless `at_once`, nothing that would not better wait."""
        began = self._clock()
        if began < self._rests_until:
            return None
        if self._work is None:
            usage = self._source.usage()
            if not at_once:
                usage = self._emptying.without(usage, began)
            usage = [one for one in usage if one.number not in self._stuck]
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
