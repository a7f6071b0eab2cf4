"""How many a second: the generic cell rate algorithm (ITU-T I.371), virtual scheduling.

The one state is the theoretical arrival time t of the next one at an even pace, one each i
seconds.  One may go at `now` when now >= t - b, and then t = max(t, now) + i.  So no more than
1 + (T + b)/i go in any T seconds, and after a rest no faster than the pace, but for b: what falls
into BURST_S may go at once, as timers are not exact.
"""

import time
from collections.abc import Callable
from typing import Protocol

from gwrelay.relay.node import NodeSites

BURST_S = 0.01


class AnyRate(Protocol):
    per_s: float

    def wait_s(self) -> float:
        """Seconds until one may go; 0.0: now."""

    def go(self) -> float:
        """Let one go, if it may: 0.0.  Else how many seconds to wait."""

    def take(self, count: int) -> None:
        """So many go at once, whether they may or not: those that come next wait for it."""

    def give_back(self, count: int) -> None:
        """So many did not go after all."""


class Rate:
    """Of one process."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self.per_s = per_s
        self._clock = clock
        self._interval_s = 1.0 / per_s
        self._next_at = 0.0
        self._newest_now = 0.0

    def wait_s(self) -> float:
        now = self._now()
        return max(0.0, self._next_at - BURST_S - now)

    def go(self) -> float:
        wait_s = self.wait_s()
        if not wait_s:
            self.take(1)
        return wait_s

    def take(self, count: int) -> None:
        now = self._now()
        self._next_at = max(self._next_at, now) + count * self._interval_s

    def give_back(self, count: int) -> None:
        self._next_at -= count * self._interval_s

    def _now(self) -> float:
        now = self._clock()
        if now < self._newest_now:  # set back: not a reason to wait for longer
            self._next_at -= self._newest_now - now
        self._newest_now = now
        return now


class NodeRate:
    """Of all workers of a gateway; `key` is node.key_of() of what it is the rate of."""

    def __init__(self, per_s: float, node: NodeSites, key: int) -> None:
        self.per_s = per_s
        self._node = node
        self._key = key

    def wait_s(self) -> float:
        return max(0.0, self._node.due_at(self._key) - BURST_S - time.monotonic())

    def go(self) -> float:
        now = time.monotonic()
        return max(0.0, self._node.next_at(self._key, self.per_s, now, 1, BURST_S) - now)

    def take(self, count: int) -> None:
        self._node.next_at(self._key, self.per_s, time.monotonic(), count, float("inf"))

    def give_back(self, count: int) -> None:
        self._node.give_back(self._key, self.per_s, time.monotonic(), count)
