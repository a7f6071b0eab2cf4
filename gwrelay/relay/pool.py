"""How many relayers may be at work, and for whom: the bound that all sites share.

    all of it            sites that are well: they answered, in good time
    three quarters       those of which nothing is known yet, and the next
    half                 those that are slow, or fail

So mail for a site that is well finds a relayer whatever the others do, and a new site finds one
however many fail.  Sites without a relayer come before those that have some, in the order in
which they came to want one.  A rate that all share (--global-message-rate) they take in turn, too.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import IntEnum
from itertools import count
from typing import TYPE_CHECKING

from gwrelay.relay.rates import BURST_S, AnyRate

if TYPE_CHECKING:
    from gwrelay.relay.site import Site

#: Deliveries in a row of a site's only relayer while others wait for one.
TURN = 20


class Health(IntEnum):
    """Of a site."""

    WELL = 0
    UNKNOWN = 1
    BAD = 2


#: Going over the class itself takes several times as long.
_ALL = tuple(Health)


class Pool:
    def __init__(
        self, limit: int, *, has_one_site: bool = False, message_rate: AnyRate | None = None
    ) -> None:
        """`message_rate` is of all sites together; None: there is no limit."""
        self.limit = limit
        self.message_rate = message_rate
        #: Called when that rate allows nothing for so many seconds: then go_on() is due.
        self.on_limited: Callable[[float], None] = _nobody_waits
        #: Sites that wait for it, whose turn it is first; and those that have their turn.
        self._limited: OrderedDict[Site, None] = OrderedDict()
        self._admitted: set[Site] = set()
        # Where all mail goes to one site there is nobody to keep room for.
        shares = (1.0, 1.0, 1.0) if has_one_site else (1.0, 0.75, 0.5)
        #: By health: as many may be of a site like this, or of one in a worse state.
        self._limits = [max(1, int(limit * share)) for share in shares]
        self._by_health = [0, 0, 0]
        #: Sites that want a relayer, with the number of their turn, by health: those that have
        #: none, and those that have some.
        self._without, self._with = _lines(), _lines()
        self._turns = count()
        #: Sites with idle relayers: the one that has had them longest comes first.
        self._idle: dict[Site, None] = {}

    @property
    def relayers(self) -> int:
        """There are, idle ones included."""
        return sum(self._by_health)

    # -- places ----------------------------------------------------------------------------

    def has_room(self, health: Health) -> bool:
        """Whether a site in this state may have another relayer."""
        return all(
            sum(self._by_health[worst:]) < self._limits[worst] for worst in range(health + 1)
        )

    def count(self, relayers: int, health: Health) -> None:
        """So many more (or, below 0, fewer) of a site."""
        self._by_health[health] += relayers

    def turned(self, relayers: int, before: Health, after: Health) -> None:
        """The state of a site with so many has changed."""
        self._by_health[before] -= relayers
        self._by_health[after] += relayers

    # -- who wants one ---------------------------------------------------------------------

    def want(self, site: "Site") -> None:
        """`site` could use another relayer; once is enough."""
        lines = self._with if site.relayers else self._without
        line = lines[site.health]
        known = line.get(site.key)
        line[site.key] = (next(self._turns) if known is None else known[0], site)

    def is_waiting(self, site: "Site") -> bool:
        """Whether it will have its turn: for a relayer, or for a message of the rate of all."""
        lines = (*self._without, *self._with)
        return site in self._limited or any(site.key in line for line in lines)

    def next_site(self) -> "Site | None":
        """Whose turn it is, if there is room for a relayer of his.

        Costs the same however many wait.
        """
        for lines in (self._without, self._with):
            while (line := self._first(lines)) is not None:
                key = next(iter(line))
                site = line.pop(key)[1]
                if not site.wanted():
                    continue
                # It may have turned since, or have got one.
                mine = self._with if site.relayers else self._without
                if line is mine[site.health]:
                    return site
                self.want(site)
        return None

    def _first(self, lines: "list[_Line]") -> "_Line | None":
        """The line whose first has waited longest, of those for which there is room."""
        if not any(lines):
            return None
        open_to = [line for health in _ALL if (line := lines[health]) and self.has_room(health)]
        return min(open_to, key=lambda line: next(iter(line.values()))[0], default=None)

    # -- the rate that all share -------------------------------------------------------------

    def may_send(self, site: "Site") -> bool:
        """Whether `site` may send one now, which is counted then; if not, it has its turn after
        those that wait already."""
        if self.message_rate is None:
            return True
        if site in self._admitted or not self._limited:
            wait_s = self.message_rate.go()
            if not wait_s:
                self._admitted.discard(site)
                return True
            self.on_limited(wait_s)
        self._limited.setdefault(site)
        return False

    def go_on(self) -> None:
        """Let sites take one message each, as many as the rate allows at once."""
        if self.message_rate is None:
            return
        per_s = self.message_rate.per_s
        for _ in range(min(len(self._limited), max(1, int(BURST_S * per_s)))):
            site, _ = self._limited.popitem(last=False)
            self._admitted.add(site)
            if site.go_on(1):
                self._limited[site] = None
        if self._limited:
            # Who had his turn may have had no use for it.
            self.on_limited(1.0 / per_s)

    def idle_sites(self) -> "list[Site]":
        """Those with idle relayers."""
        return list(self._idle)

    def forget(self, site: "Site") -> None:
        """It is no more."""
        self._limited.pop(site, None)
        self._admitted.discard(site)

    def gives_way(self, relayers: int, served: int, health: Health) -> bool:
        """Whether a relayer that has ended a delivery should leave its place to a site that has
        none; its own has so many `relayers`, and `served` deliveries in a row."""
        if not any(self._without) or (relayers == 1 and served < TURN):
            return False
        shut_out = [h for h in _ALL if self._without[h] and not self.has_room(h)]
        if not shut_out:
            return False
        self._by_health[health] -= 1
        helps = any(map(self.has_room, shut_out))
        self._by_health[health] += 1
        return helps

    def note_idle(self, site: "Site", *, is_idle: bool) -> None:
        if is_idle:
            self._idle[site] = None
        else:
            self._idle.pop(site, None)

    def make_room(self) -> None:
        """When it is full and somebody waits, send an idle relayer home: its session may be of use
        later, that of a site with mail is now."""
        if self.relayers >= self.limit and (any(self._without) or any(self._with)):
            site = next(iter(self._idle), None)
            if site is not None:
                site.release_one()


def _nobody_waits(_wait_s: float) -> None:
    """Whoever calls go_on() in time."""


_Line = dict[Hashable, tuple[int, "Site"]]


def _lines() -> list[_Line]:
    return [{} for _ in _ALL]
