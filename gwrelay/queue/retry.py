"""When a deferred delivery is tried again, and when it is given up (RFC 5321 4.5.4.1).

Pure: ages, attempts and a random number in, seconds out.
"""

import re
from typing import NamedTuple

# What to do with mail that may have been delivered: leave it alone for a time and ask the same
# host again; treat it like any other deferral; or leave it to the operator.
WAIT, RETRY, HOLD = "wait", "retry", "hold"

#: "greylisted for 300 seconds", "try again in 5 minutes", "please come back in 00:04:58".
_HINT = re.compile(
    r"\b(?:again|retry|back|wait|greylist\w*)\b\D{0,30}?"
    r"(?:(\d{1,2}):(\d\d):(\d\d)|(\d{1,5}) ?(s|sec|second|m|min|minute|h|hour)s?)\b",
    re.IGNORECASE,
)
_UNITS_S = {"s": 1, "m": 60, "h": 3600}
#: Nobody is asked sooner, whatever he says; and hints are rounded up to whole multiples, so that
#: recipients who were put off one after the other stay together.
_LEAST_HINT_S = 10


class RetryPolicy(NamedTuple):
    """All in seconds.  The last of `delays_s` repeats for ever."""

    delays_s: tuple[float, ...] = (60, 300, 600, 1200, 2400, 3600, 3600, *[7200] * 4, 14400)
    lifetime_s: float = 5 * 86400
    #: For messages with a null reverse-path: nobody waits for a late bounce.
    bounce_lifetime_s: float = 86400
    #: Share of each delay by which it varies, so that what failed together does not come
    #: back as one wave.
    jitter: float = 0.15
    #: WAIT, RETRY or HOLD.
    in_doubt: str = WAIT
    in_doubt_wait_s: float = 900
    #: Whether a server may say when to come again.
    honors_hints: bool = True
    #: Age at which the sender of what waits still is told so; 0: he is not.
    delay_warning_s: float = 0.0

    def expires_at(self, arrived_at: float, is_bounce: bool) -> float:
        return arrived_at + (self.bounce_lifetime_s if is_bounce else self.lifetime_s)

    def is_late(self, arrived_at: float, now: float) -> bool:
        """Whether it is time to tell the sender that his mail waits still."""
        return self.delay_warning_s > 0.0 and now >= arrived_at + self.delay_warning_s

    def latest_turn(self, due_at: float, arrived_at: float, is_bounce: bool, now: float) -> float:
        """`due_at`, or before it the end of the lifetime, or the time to warn the sender."""
        ends = [self.expires_at(arrived_at, is_bounce)]
        if self.delay_warning_s > 0.0 and not is_bounce:
            ends.append(arrived_at + self.delay_warning_s)
        return min([due_at, *(end for end in ends if now < end)])

    def delay_s(self, attempts: int, chance: float) -> float:
        """Wait after the `attempts`-th attempt (from 1).  `chance` is uniform in 0..1."""
        delay = self.delays_s[min(attempts, len(self.delays_s)) - 1]
        return delay * (1 + self.jitter * (2 * chance - 1))

    @property
    def longest_delay_s(self) -> float:
        return max(max(self.delays_s) * (1 + self.jitter), self.in_doubt_wait_s)

    def next_due(
        self, attempts: int, now: float, expires_at: float, chance: float, hint_s: float = 0.0
    ) -> float:
        """Unix seconds.  The last attempt comes at the end of the lifetime, not after it.

        With `hint_s`, what the server said: not sooner, and at most the longest delay.
        """
        delay_s = self.delay_s(attempts, chance)
        if hint_s:
            delay_s = min(hint_s * (1 + self.jitter * chance), self.longest_delay_s)
        return min(now + delay_s, max(expires_at, now))

    def due_in_doubt(self, attempts: int, now: float, expires_at: float, chance: float) -> float:
        """Likewise, after an attempt that may have delivered it.  The wait is never cut short,
        not even for the end of the lifetime: the next hop may still be at work on it."""
        if self.in_doubt == WAIT:
            return now + self.in_doubt_wait_s
        return self.next_due(attempts, now, expires_at, chance)


def hint_s(text: str) -> float:
    """In how many seconds to come again, as a reply says; 0.0 when it does not."""
    found = _HINT.search(text)
    if found is None:
        return 0.0
    hours, minutes, seconds, count, unit = found.groups()
    if count is None:
        said = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    else:
        said = int(count) * _UNITS_S[unit[0].lower()]
    return float(-(-max(said, 1) // _LEAST_HINT_S) * _LEAST_HINT_S)
