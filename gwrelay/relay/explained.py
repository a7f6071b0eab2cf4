"""Why a part of a message is not delivered yet, and what is known of its site.

Looks at a running manager and changes nothing.  Never blocks, but for a plan that is to be
looked up.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.candidates import Candidate
from gwrelay.mx.failures import ResolutionError
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.standing import HELD, RELAYING, Part
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.hosts import Exchanges, SiteHosts
from gwrelay.relay.manager import SmartHostSMTPRelayingManager
from gwrelay.relay.site import Site
from gwrelay.relay.suspensions import Suspended

#: What a part waits for, in a word.
OPERATOR, RETRY, DEAD, DUE, LOOKUP, WINDOW, POOL, ATTEMPT, SUSPENDED, LIMITED = (
    *("held", "retry", "site dead", "due"),
    *("lookup", "window", "concurrency", "attempt", "suspended", "rate"),
)

#: Seconds for which is remembered which relayer has what in hand: a list asks for each part.
_GLANCE_S = 0.1


class Blocker(NamedTuple):
    """What stands between a part and its delivery.  Times are Unix seconds, None where unknown."""

    kind: str
    text: str
    since: float | None = None
    until: float | None = None


class PlannedHost(NamedTuple):
    """`place` counts from 1; None for an address that the next attempt does not try."""

    place: int | None
    candidate: Candidate
    #: Unix seconds; None: it bears no mark.
    bad_until: float | None
    #: None for a mark by name, too.
    bad_since: float | None
    #: How the session ended that it bears the mark for; "": not known.
    why: str


class Route(NamedTuple):
    """`reply` says why there are no hosts; "" when there are, or nobody has asked yet."""

    hosts: tuple[PlannedHost, ...]
    reply: str
    is_known: bool


class Explainer:
    def __init__(
        self,
        manager: SmartHostSMTPRelayingManager,
        calculator: MXCalculator,
        source: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`source` is the manager's."""
        self._manager = manager
        self._calculator = calculator
        self._source = source
        self._clock = clock
        self._in_hand: dict[Delivery, AttemptManager] = {}
        self._glanced_at = float("-inf")

    # -- one part ------------------------------------------------------------------------

    def blocker(self, part: Part) -> Blocker:
        if part.word == HELD:
            return Blocker(OPERATOR, part.open.held or "held")
        if part.word == RELAYING and part.delivery is not None:
            return self._while_relaying(part.delivery)
        now = self._clock()
        due_at = part.open.due_at
        suspended = self._suspended(part.open.destination)
        if suspended is not None:
            reason = f": {suspended.reason}" if suspended.reason else ""
            text = f"{suspended} is suspended by an operator{reason}"
            return Blocker(SUSPENDED, text, suspended.since, suspended.until)
        if due_at > now:
            attempts = part.open.attempts
            text = f"its turn after attempt {attempts}" if attempts else "put off"
            return Blocker(RETRY, text, until=due_at)
        site = self.site(part.open.destination)
        if site is not None and site.dead_until > now:
            return Blocker(DEAD, f"no host of {site.name} can be reached", until=site.dead_until)
        if site is not None and site.ready:
            return self._at_site(site, due_at)
        return Blocker(DUE, "due, and about to be taken up", since=due_at)

    def _while_relaying(self, delivery: Delivery) -> Blocker:
        attempt = self._hands().get(delivery)
        if attempt is not None:
            since = self._clock() - (time.monotonic() - attempt.since)
            return Blocker(ATTEMPT, f"being relayed to {attempt.site.name}", since=since)
        manager = self._manager
        destination = delivery.destination
        if manager.is_looking_up(destination):
            return Blocker(LOOKUP, f"{destination} is being looked up", since=delivery.due_at)
        site = self.site(destination)
        if site is None:
            return Blocker(DUE, "a relayer is about to take it", since=delivery.due_at)
        return self._at_site(site, delivery.due_at)

    def _at_site(self, site: Site, since: float) -> Blocker:
        """What keeps mail that is ready at a living site, or parked there because others are."""
        wait_s, flag = site.limited_for_s
        if wait_s:
            text = f"no more than --{flag} may go to {site.name}"
            return Blocker(LIMITED, text, since, self._clock() + wait_s)
        if site.is_full:
            text = f"all {site.relayers} sessions that {site.name} may have now are in use"
            return Blocker(WINDOW, text, since=since)
        if site.is_full_elsewhere:
            text = f"all {site.limits.concurrency} sessions that {site.name} may have are in use"
            return Blocker(WINDOW, f"{text}, by other workers too", since=since)
        pool = self._manager.pool
        if not site.relayers:
            text = (
                f"{pool.relayers} relayers are at work, of --concurrency {pool.limit}; part of "
                "that is kept for sites that do well"
            )
            return Blocker(POOL, text, since=since)
        return Blocker(DUE, "a relayer is about to take it", since=since)

    def _suspended(self, destination: str) -> Suspended | None:
        suspensions = self._manager.sites.suspensions
        if not suspensions:
            return None
        found = self._manager.exchanges_of(destination)
        known = () if found is None or isinstance(found, ResolutionError) else found
        return suspensions.of(destination, [exchange.name for exchange in known])

    def _hands(self) -> dict[Delivery, AttemptManager]:
        now = time.monotonic()
        if now > self._glanced_at + _GLANCE_S:
            self._glanced_at = now
            attempts = self._manager.managed.values()
            self._in_hand = {one.in_hand: one for one in attempts if one.in_hand is not None}
        return self._in_hand

    # -- its site ------------------------------------------------------------------------

    def site(self, destination: str) -> Site | None:
        """None when it has no mail under way, or is not looked up."""
        found = self._manager.exchanges_of(destination)
        if found is None or isinstance(found, ResolutionError):
            return None
        return self._manager.site_of(destination, found)

    def sites(self) -> tuple[int, int]:
        """How many there are, and how many of them are dead now."""
        now = self._clock()
        sites = list(self._manager.sites)
        return len(sites), sum(site.dead_until > now for site in sites)

    def dead_since(self, destination: str) -> float | None:
        """When the last of its hosts was marked."""
        hosts = self.route(destination).hosts
        if not all(host.bad_until for host in hosts):
            return None
        return max((host.bad_since for host in hosts if host.bad_since), default=None)

    def route(self, destination: str, *, asks: bool = False) -> Route:
        """What an attempt would try now, then what it has no room for.  With `asks` name servers
        are asked where nothing is remembered, which blocks this greenlet."""
        found = self._manager.exchanges_of(destination, asks=asks)
        if found is None:
            return Route((), "", False)
        if isinstance(found, ResolutionError):
            return Route((), str(found.reply), True)
        return Route(tuple(self._planned(found)), "", True)

    def _planned(self, exchanges: Exchanges) -> Iterator[PlannedHost]:
        hosts = SiteHosts(self._calculator, self._source)
        hosts.exchanges = exchanges
        chosen = hosts.plan().candidates
        everything = [
            Candidate(one.name, address, one.port, one.preference)
            for one in exchanges
            for address in one.addresses
        ]
        names, marks = self._calculator.bad_hosts()
        found = {(m.address, m.port): m for m in marks if m.source == self._source}
        places = {candidate: n for n, candidate in enumerate(chosen, 1)}
        for one in (*chosen, *(one for one in everything if one not in places)):
            by_address = self._calculator.bad_until(one.address, self._source, one.port)
            until = max(by_address, names.get(one.exchange, 0.0)) or None
            mark = found.get((one.address, one.port)) if by_address else None
            since, why = (mark.set_at, mark.why) if mark else (None, "")
            yield PlannedHost(places.get(one), one, until, since, why)
