"""How many a second: the generic cell rate algorithm (ITU-T I.371), virtual scheduling.  Pure.

The one state is the theoretical arrival time t of the next one at an even pace, one each i
seconds.  One may go at `now` when now >= t - b, and then t = max(t, now) + i.  So no more than
1 + (T + b)/i go in any T seconds, and after a rest no faster than the pace, but for b: what falls
into BURST_S may go at once, as timers are not exact.
"""

BURST_S = 0.01


class Rate:
    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._interval_s = 1.0 / per_s
        self._next_at = 0.0
        self._newest_now = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until one may go; 0.0: now.  `now` is of any clock."""
        if now < self._newest_now:  # set back: not a reason to wait for longer
            self._next_at -= self._newest_now - now
        self._newest_now = now
        return max(0.0, self._next_at - BURST_S - now)

    def take(self, now: float, count: int = 1) -> None:
        """So many go at once, whether they may or not: those that come next wait for it."""
        self._next_at = max(self._next_at, now) + count * self._interval_s

    def give_back(self, count: int = 1) -> None:
        """So many did not go after all."""
        self._next_at -= count * self._interval_s
