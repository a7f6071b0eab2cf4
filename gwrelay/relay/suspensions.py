"""What an operator has suspended for a time: mail for a destination, or for the sites that have a
certain exchange.  Pure, but for its clock; suspensionfile.py keeps it over a restart.

Sessions under way end what they have in hand.  What waits is parked with its suspension, and
comes to the end of its lifetime as it would anywhere.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from gwrelay.relay.parked import Parked

#: What is suspended: a destination, or an exchange by name.
DOMAIN, SITE = "domain", "site"

#: Kind and name.
SuspendedKey = tuple[str, str]


class Suspended(NamedTuple):
    """Times are Unix seconds."""

    #: DOMAIN or SITE.
    kind: str
    #: Lower case, without a dot at the end.
    name: str
    since: float
    until: float
    #: For people.
    reason: str

    @property
    def key(self) -> SuspendedKey:
        return self.kind, self.name

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class Suspensions:
    """What is in it when `now` is past its end counts no more."""

    def __init__(self, clock: Callable[[], float], known: Iterable[Suspended] = ()) -> None:
        self._clock = clock
        self._all = {one.key: one for one in known}
        #: What waits for the end of each.
        self._parked: dict[SuspendedKey, Parked] = {}

    def __bool__(self) -> bool:
        """Whether there is any to ask about."""
        return bool(self._all)

    def add(self, suspended: Suspended) -> None:
        """Instead of the one of the same, if there is one: what is parked there stays."""
        self._all[suspended.key] = suspended

    def end(self, key: SuspendedKey) -> Parked | None:
        """It is no more: what waited for its end."""
        self._all.pop(key, None)
        return self._parked.pop(key, None)

    def get(self, key: SuspendedKey) -> Suspended | None:
        return self._all.get(key)

    def running(self) -> list[Suspended]:
        """In the order in which they end."""
        now = self._clock()
        return sorted((s for s in self._all.values() if s.until > now), key=lambda s: s.until)

    def of(self, destination: str, exchanges: Iterable[str]) -> Suspended | None:
        """Why mail for `destination`, which has these, does not go; None: it does."""
        if not self._all:
            return None
        now = self._clock()
        keys = [(DOMAIN, destination), *((SITE, name) for name in exchanges)]
        running = [s for key in keys if (s := self._all.get(key)) is not None and s.until > now]
        return max(running, key=lambda s: s.until, default=None)

    def count(self, key: SuspendedKey) -> int:
        """That wait for the end of it; see Parked."""
        return len(self._parked.get(key, ()))

    def parked(self, suspended: Suspended) -> Parked:
        """What waits for the end of that one."""
        return self._parked.setdefault(suspended.key, Parked())
