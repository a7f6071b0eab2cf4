"""Which messages waited for a host that was down, read from the events.  Values in, values out.

A relay that knows a host to be down tries it with one message and holds the rest back, so
these reach it at their first attempt and still have waited for a retry.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

#: Stages before a host has said that it takes mail at all.
_HOST_STAGES = frozenset({"connect", "banner", "ehlo", "starttls"})


class Downtimes:
    """When each destination's hosts could not be reached, and when they could."""

    def __init__(self, events: Iterable[Mapping[str, Any]]) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)
        self._down: dict[str, list[bool]] = defaultdict(list)
        attempts = [event for event in events if event["event"] in ("deferred", "delivered")]
        for event in sorted(attempts, key=lambda event: float(event["time"])):
            destination = _destination(event["recipient"])
            down = event["event"] == "deferred" and event.get("stage") in _HOST_STAGES
            self._times[destination].append(float(event["time"]))
            self._down[destination].append(down)

    def waited(self, recipient: str, since: float, until: float) -> bool:
        """Whether its hosts were down at any time from `since` to `until` (Unix seconds).

        They are taken to be down from a failed connection until the next delivery.
        """
        destination = _destination(recipient)
        times = self._times[destination]
        before = max(0, bisect_left(times, since) - 1)
        return any(self._down[destination][before : bisect_left(times, until)])


def _destination(recipient: str) -> str:
    return recipient.rpartition("@")[2].lower()
