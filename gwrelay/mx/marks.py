"""Which addresses are not worth a connection just now, and until when.

Keyed by source and address, never by name: one dead address of eight must not silence the
other seven, and a host that refuses one of our addresses may take mail from another.
Pure state: times come in as arguments, in seconds of the owner's clock.
"""

import random
from collections.abc import MutableMapping
from typing import NamedTuple


class Mark(NamedTuple):
    """A running mark.  `port` 0 is that of exchanges found by MX; `source` "" any of ours."""

    source: str
    address: str
    port: int
    set_at: float
    until: float
    #: How the session ended that it was set for; "" where an operator set it.
    why: str = ""


#: See Marks.held.
Held = MutableMapping[tuple[str, str], tuple[float, float, float, str]]


class Marks:
    """Bad-host marks.  The first lasts `first_s`, each following one twice as long, to `max_s`.

    A mark that ended is no longer seen, but its length is remembered for `max_s` more: a host
    tried again after minutes and found dead again is still in the same trouble.  Only a
    success (`clear`) forgets that at once.
    """

    def __init__(
        self,
        first_s: float,
        max_s: float,
        jitter: float,
        rng: random.Random,
        held: Held | None = None,
    ) -> None:
        """`held` is where they are kept, of others too."""
        self._first_s = first_s
        self._max_s = max_s
        self._jitter = jitter
        self._random = rng.random
        #: (source, address, with its port as place() puts it) -> (set at, until, length
        #: without jitter, why).  For others to see whether there is any at all.
        self.held: Held = {} if held is None else held
        self._sweep_above = 1024

    def __len__(self) -> int:
        return len(self.held)

    def mark(self, address: str, source: str, now: float, why: str = "") -> float:
        """A connection failed.  Returns until when the address is left alone.

        Jitter only shortens, so that a mark never lasts longer than the operator was told.
        """
        set_at, until, length_s, _ = self.held.get((source, address), (0.0, 0.0, 0.0, ""))
        # Twenty sessions to a host that dies fail within moments of each other.  They tell
        # of one trouble, not of twenty, and must not double the mark twenty times.
        if set_at <= now < min(until, set_at + self._first_s):
            return until
        if until + self._max_s <= now:
            length_s = 0.0  # long ago: another trouble
        length_s = min(max(self._first_s, 2 * length_s), self._max_s)
        until = now + length_s * (1.0 - self._jitter * self._random())
        self._put(address, source, (now, until, length_s, why), now)
        return until

    def mark_until(self, address: str, source: str, now: float, until: float) -> None:
        """Leave `address` alone until `until`, whatever its history."""
        self._put(address, source, (now, until, self._first_s, ""), now)

    def clear(self, address: str, source: str) -> None:
        self.held.pop((source, address), None)

    def clear_everywhere(self, addresses: frozenset[str]) -> int:
        """From any source and at any port; returns how many marks there were."""
        found = [key for key in self.held if key[1].partition(" ")[0] in addresses]
        for source, address in found:
            self.clear(address, source)
        return len(found)

    def until(self, address: str, source: str, now: float) -> float:
        """When the running mark ends; 0.0 if there is none."""
        mark = self.held.get((source, address))
        return mark[1] if mark is not None and mark[1] > now else 0.0

    def why(self, address: str, source: str) -> str:
        """What the latest mark was set for, running or not; "" where nothing is remembered."""
        mark = self.held.get((source, address))
        return "" if mark is None else mark[3]

    def running(self, now: float) -> list[Mark]:
        """Those that have not ended."""
        return [
            Mark(source, *_address_and_port(address), set_at, until, why)
            for (source, address), (set_at, until, _, why) in self.held.items()
            if until > now
        ]

    def forget(self, now: float) -> None:
        """Drop what ended longer than `max_s` ago."""
        for key in [k for k, mark in self.held.items() if mark[1] + self._max_s <= now]:
            del self.held[key]

    def _put(
        self, address: str, source: str, mark: tuple[float, float, float, str], now: float
    ) -> None:
        self.held[source, address] = mark
        if len(self.held) > self._sweep_above:
            self.forget(now)
            self._sweep_above = max(1024, 2 * len(self.held))


def place(address: str, port: int) -> str:
    """What a mark is about: `address`, or one port of it where that is not the usual one.

    Two smart hosts may share an address, and one of them be down.
    """
    return f"{address} port {port}" if port else address


def _address_and_port(placed: str) -> tuple[str, int]:
    address, _, port = placed.partition(" port ")
    return address, int(port or 0)
