"""How long a worker has stood still, and how soon one that ended is started again.  Pure.

Times are seconds of the monotonic clock.
"""

#: One that ran for this long did not end because it was started.
_SOUND_S = 60.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 1.0, 60.0


class Stillness:
    """Time that passed while we were looking and the worker's beat stayed the same.

    Not the time since that beat: after a pause of the whole machine, or of all processes of a
    terminal, every worker would seem to have stood still for all of it.
    """

    def __init__(self) -> None:
        self._beat_at = 0.0
        self._looked_at = 0.0
        self._still_s = 0.0

    def look(self, beat_at: float, now: float, at_most_s: float) -> float:
        """→ for how long it has stood still.  `beat_at` is its newest beat, 0.0 for none yet: it
        is starting, for which it has all the time it wants.  No look counts for more than
        `at_most_s`."""
        if beat_at != self._beat_at or not beat_at:
            self._beat_at = beat_at
            self._still_s = 0.0
        else:
            self._still_s += min(now - self._looked_at, at_most_s)
        self._looked_at = now
        return self._still_s


class BackOff:
    """The first to end is started again at once; what ends again and again must wait, longer
    each time."""

    def __init__(self) -> None:
        self._delay_s = 0.0

    def next_delay_s(self, ran_s: float) -> float:
        """How long to wait, now that it has ended after `ran_s`."""
        if ran_s >= _SOUND_S:
            self._delay_s = 0.0
        delay_s = self._delay_s
        self._delay_s = min(max(2 * delay_s, _FIRST_DELAY_S), _LONGEST_DELAY_S)
        return delay_s
