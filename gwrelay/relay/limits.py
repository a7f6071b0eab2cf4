"""What a site may have at most, and which destinations have limits of their own.  Pure."""

from collections.abc import Mapping
from typing import NamedTuple


class SiteLimits(NamedTuple):
    """Sessions, and messages and connections a second; 0.0: as many as there are."""

    concurrency: int = 20
    #: Sessions at first.
    initial: int = 5
    messages_per_s: float = 0.0
    connections_per_s: float = 0.0

    def within(self, other: "SiteLimits") -> "SiteLimits":
        """The smaller of each."""
        return SiteLimits(
            min(self.concurrency, other.concurrency),
            min(self.initial, other.initial),
            _smaller(self.messages_per_s, other.messages_per_s),
            _smaller(self.connections_per_s, other.connections_per_s),
        )


class LimitPolicy(NamedTuple):
    """`usual` holds for sites of which no destination has limits of its own; `own` is by
    destination.  Where several that have some share a site, it has the smallest of theirs."""

    usual: SiteLimits = SiteLimits()
    own: Mapping[str, SiteLimits] = {}


def _smaller(rate: float, other: float) -> float:
    return min(rate, other) if rate and other else rate or other
