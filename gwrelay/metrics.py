"""What a worker counts, as plain numbers.  Anyone may count; metricspage.py formats.  Pure."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

#: Seconds.
LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
#: From the 250 that accepted a message to its delivery.
DELAY_BOUNDS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
    *(300.0, 900.0, 3600.0, 4 * 3600.0, 86400.0),
)


class Histogram:
    """How often something took how long."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ends of all buckets but the last, ascending."""
        self.bounds = tuple(bounds)
        #: One more than bounds: the last is for what is above all of them.
        self.counts = [0] * (len(bounds) + 1)
        #: Of all that was observed.
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """Since the start of the process."""

    def __init__(self) -> None:
        self.accepted_messages = 0
        self.accepted_bytes = 0
        #: TLS handshakes with clients, by how they ended.
        self.client_handshakes: Counter[str] = Counter()
        #: Of recipients, by the word of the event.
        self.outcomes: Counter[str] = Counter()
        #: Reports that were made.
        self.reports = 0
        self.delay_s = Histogram(DELAY_BOUNDS_S)
        self.loop_lag_s = Histogram(LAG_BOUNDS_S)


class Family(NamedTuple):
    """One metric as it is told to others: `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    #: Of a counter or gauge: [labels, value] each.
    samples: list[tuple[dict[str, str], float]]
    #: Of a histogram.
    bounds: Sequence[float] = ()
    counts: Sequence[int] = ()
    total: float = 0.0


def counter(name: str, help: str, value: float) -> Family:
    return Family(name, "counter", help, [({}, value)])


def gauge(name: str, help: str, value: float) -> Family:
    return Family(name, "gauge", help, [({}, value)])


def by_label(name: str, kind: str, help: str, label: str, values: dict[str, Any]) -> Family:
    return Family(name, kind, help, [({label: word}, value) for word, value in values.items()])


def histogram(name: str, help: str, about: Histogram) -> Family:
    return Family(name, "histogram", help, [], about.bounds, about.counts, about.total)
