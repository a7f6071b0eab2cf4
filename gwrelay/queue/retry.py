"""When a deferred delivery is tried again, and when it is given up (RFC 5321 4.5.4.1).

Pure: ages, attempts and a random number in, seconds out.
"""

from typing import NamedTuple


class RetryPolicy(NamedTuple):
    """All in seconds.  The last of `delays_s` repeats for ever."""

    delays_s: tuple[float, ...] = (60, 300, 600, 1200, 2400, 3600, 3600, *[7200] * 4, 14400)
    lifetime_s: float = 5 * 86400
    #: For messages with a null reverse-path: nobody waits for a late bounce.
    bounce_lifetime_s: float = 86400
    #: Share of each delay by which it varies, so that what failed together does not come
    #: back as one wave.
    jitter: float = 0.15

    def expires_at(self, arrived_at: float, is_bounce: bool) -> float:
        return arrived_at + (self.bounce_lifetime_s if is_bounce else self.lifetime_s)

    def delay_s(self, attempts: int, chance: float) -> float:
        """Wait after the `attempts`-th attempt (from 1).  `chance` is uniform in 0..1."""
        delay = self.delays_s[min(attempts, len(self.delays_s)) - 1]
        return delay * (1 + self.jitter * (2 * chance - 1))

    @property
    def longest_delay_s(self) -> float:
        return max(self.delays_s) * (1 + self.jitter)

    def next_due(self, attempts: int, now: float, expires_at: float, chance: float) -> float:
        """Unix seconds.  The last attempt comes at the end of the lifetime, not after it."""
        return min(now + self.delay_s(attempts, chance), max(expires_at, now))
