"""Sessions to sites, and rates, that hold for all workers of a gateway together.

    sites := key * n  next_at * n  (sessions * n) * workers  (asked_at * n) * workers

In memory that their supervisor makes and all workers inherit; nothing of it outlives them.  Each
worker counts its sessions in a column of its own, without a lock; the column is cleared when it is
dead.  How rows are found, and who may change one, is said in rows.py.

All times are seconds of the monotonic clock, which processes share.
"""

import mmap
import os

from gwrelay.relay.rows import CELL_BYTES, WINDOW, Busy, Rows

#: Seconds after which to ask again when the answer was no, and nobody will say that it changed.
ASK_AGAIN_S = 0.1
#: Seconds for which it counts that a worker was refused: one that still wants has asked again.
_CLAIM_S = 5 * ASK_AGAIN_S
#: Rows there are, a power of two: four times as many as there may be sessions by default.
SITES = 1 << 13


def new_sites(workers: int, capacity: int = SITES) -> int:
    """A descriptor for NodeSites, of a file that has no name."""
    descriptor = os.memfd_create("gwrelay-sites")
    os.ftruncate(descriptor, _cells(workers, capacity) * CELL_BYTES)
    return descriptor


def _cells(workers: int, capacity: int) -> int:
    return (2 + 2 * workers) * (capacity + WINDOW)


class NodeSites:
    """What worker `number` (from 0, of `workers`) sees and changes.  Keys are rows.key_of()'s; one
    for sessions and one for each rate of a site."""

    def __init__(self, descriptor: int, workers: int, number: int, capacity: int = SITES) -> None:
        size = capacity + WINDOW
        memory = memoryview(mmap.mmap(descriptor, _cells(workers, capacity) * CELL_BYTES))
        integers, reals = memory.cast("Q"), memory.cast("d")
        self._rows = Rows(integers[:size], capacity, descriptor)
        self._next_at = reals[size : 2 * size]
        self._sessions = [integers[n * size : (n + 1) * size] for n in range(2, 2 + workers)]
        self._asked_at = [
            reals[n * size : (n + 1) * size] for n in range(2 + workers, 2 + 2 * workers)
        ]
        self._number = number
        self._own = self._sessions[number]
        self._own_claims = self._asked_at[number]

    def clear(self) -> None:
        """This worker is dead, or begins: it has no session and wants none."""
        for column in (self._own, self._own_claims):
            octets = column.cast("B")
            octets[:] = bytes(len(octets))

    # -- sessions --------------------------------------------------------------------------

    def open_session(self, key: int, limit: int, now: float) -> bool:
        """Count a session of ours, unless all workers have `limit` of them or it is another's turn:
        of those who wait, one that has fewer; of equals, who waits longer.

        False: ask again after ASK_AGAIN_S, as long as one is wanted.  Each that is counted must be
        given to close_session().
        """
        try:
            with self._rows.claimed(key, lambda row: self._is_free(row, now)) as row:
                free = limit - sum(column[row] for column in self._sessions)
                if free <= 0 or free <= self._ahead(row, now):
                    if not self._claims(self._number, row, now):
                        self._own_claims[row] = now
                    return False
                self._own[row] += 1
                self._own_claims[row] = 0.0
                return True
        except Busy:
            return False

    def close_session(self, key: int) -> None:
        """One that was counted has ended."""
        row = self._rows.find(key)
        if row is None or not self._own[row]:
            raise ValueError("no session of ours was counted")
        self._own[row] -= 1

    def is_wanted_elsewhere(self, key: int, now: float) -> bool:
        """Whether another worker, which has fewer sessions, was refused one: it would be fair to
        end one of ours.  Takes no lock."""
        row = self._rows.find(key)
        return row is not None and any(
            self._claims(n, row, now) and column[row] < self._own[row]
            for n, column in enumerate(self._sessions)
        )

    def sessions(self, key: int) -> int:
        """Of all workers."""
        row = self._rows.find(key)
        return 0 if row is None else sum(column[row] for column in self._sessions)

    def _ahead(self, row: int, now: float) -> int:
        """How many workers wait whose turn it is before ours."""
        own, since = self._own[row], now
        if self._claims(self._number, row, now):
            since = self._own_claims[row]
        return sum(
            self._claims(n, row, now)
            and (self._sessions[n][row], self._asked_at[n][row]) < (own, since)
            for n in range(len(self._sessions))
            if n != self._number
        )

    def _claims(self, number: int, row: int, now: float) -> bool:
        """Whether that worker was refused a moment ago."""
        return self._asked_at[number][row] > now - _CLAIM_S

    # -- rates -----------------------------------------------------------------------------

    def next_at(
        self, key: int, per_s: float, now: float, count: int = 1, burst_s: float = 0.0
    ) -> float:
        """Have `count` go at `now`, if a rate of `per_s` allows one more: → `now`.

        If not, → a later time: ask again then.  What falls into `burst_s` may go at once.  The
        generic cell rate algorithm: its one state is when the next is due at an even pace.
        """
        try:
            with self._rows.claimed(key, lambda row: self._is_free(row, now)) as row:
                due_at = self._next_at[row]
                if due_at - burst_s > now:
                    return due_at - burst_s
                self._next_at[row] = max(due_at, now) + count / per_s
                return now
        except Busy:
            return now + ASK_AGAIN_S

    def due_at(self, key: int) -> float:
        """When the next is due at an even pace; takes no lock."""
        row = self._rows.find(key)
        return 0.0 if row is None else self._next_at[row]

    def give_back(self, key: int, per_s: float, now: float, count: int = 1) -> None:
        """So many that next_at() let go did not."""
        try:
            with self._rows.claimed(key, lambda row: self._is_free(row, now)) as row:
                self._next_at[row] -= count / per_s
        except Busy:
            return  # the next one waits as if they had

    # -- rows ------------------------------------------------------------------------------

    def _is_free(self, row: int, now: float) -> bool:
        """Whether nothing is known there that still counts."""
        return (
            self._next_at[row] <= now
            and not any(column[row] for column in self._sessions)
            and not any(self._claims(n, row, now) for n in range(len(self._sessions)))
        )
