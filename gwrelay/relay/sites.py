"""All sites that have mail: which one a delivery belongs to, and what it waits for there.

A delivery is handed to its site, or parked: it waits in the queue until what blocks it is gone.

    blocked by               wakes it
    the site is dead         the mark that ends first: one of them, as a probe; then each answer,
                             as many as the window can use soon
    the site has enough      relayers that have used up half of what was ready
    a suspension             its end, or an operator
    a lookup                 its answer

Nobody looks at what is parked meanwhile, but now and then (NET_S), should a wake-up ever be lost.
Rates block a site, not its mail: it goes on when its alarm rings.
"""

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator

from gwrelay.message import outcome
from gwrelay.message.outcome import Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.failures import ResolutionError
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue
from gwrelay.relay.alarms import Alarms
from gwrelay.relay.hosts import Destinations, Exchanges, SiteHosts
from gwrelay.relay.limits import LimitPolicy
from gwrelay.relay.node import NodeSites
from gwrelay.relay.parked import Parked
from gwrelay.relay.pool import Pool
from gwrelay.relay.site import Site
from gwrelay.relay.suspensions import SITE, Suspended, SuspendedKey, Suspensions
from gwrelay.relay.transit import Transit

logger = logging.getLogger(__name__)

#: Seconds until what is parked is looked at all the same; up to twice as long, so that what was
#: parked together does not come back together.
NET_S = 4 * 3600.0

#: Seconds a site is remembered after the end of its last death, for the sake of its window.
_SITE_MEMORY_S = 3600.0
#: Seconds until a site with parked mail of which nothing was heard is probed again.
_PROBE_AGAIN_S = 60.0
#: Seconds until what is parked has its next turn when there were too many to be warned of.
_WARNED_AGAIN_S = 60.0
#: Deliveries that are woken in one go where nothing else bounds it.
_WOKEN_AT_ONCE = 1000

#: Seconds between two looks at what other workers do.
_OTHERS_EVERY_S = 0.5

#: Name of the alarm of the rate that all sites share.
_RATE = "rate"

_ENOUGH = outcome.of_ours(
    outcome.CONNECT, Reply(451, "4.4.5", "more mail waits for the destination than it takes")
)
_DEAD = "no host of the destination can be reached"


class Sites:
    """`settle` ends a delivery with the same outcome for each recipient; `changed` is told when
    ring() has something to do."""

    def __init__(
        self,
        queue: Queue,
        calculator: MXCalculator,
        destinations: Destinations,
        pool: Pool,
        *,
        limits: LimitPolicy,
        suspensions: Suspensions,
        source: str,
        node: NodeSites | None,
        transit: Transit,
        settle: Callable[[Delivery, Outcome], None],
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.suspensions = suspensions
        self._queue = queue
        self._calculator = calculator
        self._destinations = destinations
        self._pool = pool
        self._limits = limits
        self._source = source
        self._node = node
        self._looked_at_others_at = 0.0
        self._transit = transit
        self._settle = settle
        self._changed = changed
        self._clock = clock
        self._sites: dict[Hashable, Site] = {}
        self._sweep_above = 1000
        #: Of sites, suspensions, and the rate of all.
        self._alarms: Alarms[Site | SuspendedKey | str] = Alarms()
        self._newest_now = 0.0
        #: Sites that could have more ready.
        self._with_room: dict[Site, None] = {}
        #: What nothing blocks any more, but that it is much.
        self._waking: deque[Parked] = deque()
        pool.on_limited = self._note_limited
        for suspended in suspensions.running():
            self._alarms.set(suspended.key, suspended.until)

    def __iter__(self) -> Iterator[Site]:
        return iter(list(self._sites.values()))

    def of(self, destination: str, exchanges: Exchanges) -> Site | None:
        return self._sites.get(self._destinations.site_key(destination, exchanges))

    # -- where mail waits --------------------------------------------------------------------

    def file(self, delivery: Delivery, exchanges: Exchanges) -> None:
        """Hand `delivery` to its site, whose exchanges these are now; or park it."""
        destination = delivery.destination
        site = self._site(destination, exchanges)
        if self.suspensions:
            names = [exchange.name for exchange in exchanges]
            suspended = self.suspensions.of(destination, names)
            if suspended is not None:
                self._suspend(delivery, suspended)
                return
        if self._is_dead(site):
            self._put_off(delivery, site)
        elif site.is_full_up(delivery):
            self._park(delivery, site.parked, _ENOUGH, keeps_content=True)
        else:
            site.put(delivery)

    def is_in_line(self, delivery: Delivery) -> bool:
        """Whether `delivery`, which is due and waits, goes as soon as its site has room: filed now
        it would be parked behind others of its sender."""
        exchanges = self._destinations.cached(delivery.destination)
        if exchanges is None or isinstance(exchanges, ResolutionError) or self.suspensions:
            return False
        site = self.of(delivery.destination, exchanges)
        if site is None or not site.relayers or site.hosts.all_marked_until:
            return False
        return site.is_full_up(delivery)

    def park(
        self,
        delivery: Delivery,
        parked: Parked,
        *,
        keeps_content: bool = False,
        net_s: float = NET_S,
    ) -> None:
        """Let it wait in the queue until whoever has `parked` wakes it; with `keeps_content` that
        will be soon."""
        due_at = self._clock() + net_s * (1 + delivery.message_id % 1000 / 1000)
        self._queue.set_waiting(delivery, due_at, keeps_content=keeps_content)
        parked.add(delivery, self._queue.waits)

    def wake_all(self, parked: Parked) -> None:
        """Nothing blocks these any more: they are due, as fast as the queue gives them out."""
        if parked:
            self._waking.append(parked)
            self._changed()

    def _park(
        self, delivery: Delivery, parked: Parked, why: Outcome, *, keeps_content: bool = False
    ) -> None:
        """Likewise, unless its time is over: that ends while it is blocked, too, by `why`."""
        if self._queue.has_expired(delivery):
            self._settle(delivery, why)
        else:
            is_told = self._queue.warn_of_delay(delivery, why)
            net_s = NET_S if is_told else _WARNED_AGAIN_S
            self.park(delivery, parked, keeps_content=keeps_content, net_s=net_s)

    def _put_off(self, delivery: Delivery, site: Site) -> None:
        """The site is dead: this is no attempt."""
        self._park(delivery, site.parked, site.last_failure or _dead(site.hosts.why_bad))

    # -- what wakes it -----------------------------------------------------------------------

    @property
    def next_at(self) -> float | None:
        """Unix seconds at which ring() has something to do; 0.0: now; None: nothing is known."""
        return 0.0 if self._with_room or self._waking else self._alarms.next_at

    def ring(self) -> None:
        """Wake what is not blocked any more, as far as it can go now."""
        now = self._clock()
        if now < self._newest_now:
            # The clock was set back: what is not due yet says so again.
            for name in self._alarms.names():
                self._alarms.set(name, now)
        self._newest_now = now
        for name in self._alarms.due(now):
            if isinstance(name, Site):
                self._look_at(name)
            elif isinstance(name, str):
                self._pool.go_on()
            else:
                self._end_if_over(name)
        if self._node is not None and abs(now - self._looked_at_others_at) > _OTHERS_EVERY_S:
            self._looked_at_others_at = now
            self._look_at_others()
        while self._with_room:
            site = self._with_room.popitem()[0]
            if site.wake(self._queue.hasten) and site.parked and site.is_unused:
                # What was woken may go elsewhere, and nobody would ask for more.
                self._alarms.set_earlier(site, now + _PROBE_AGAIN_S)
        left = _WOKEN_AT_ONCE
        while left and self._waking:
            left -= self._waking[0].wake(left, self._queue.hasten)
            if not self._waking[0]:
                self._waking.popleft()
        if self._waking:
            self._changed()

    def _look_at_others(self) -> None:
        """Sessions that idle here while other workers want them end; a site that another worker has
        found back is not dead."""
        for site in self._pool.idle_sites():
            if site.is_wanted_elsewhere:
                site.release_one()
        self.wake()

    def _look_at(self, site: Site) -> None:
        """Of a site that was dead, or limited by a rate, or about which nobody asked since: it
        goes on, or has an alarm again."""
        if self._is_dead(site):
            self._alarms.set(site, site.dead_until)
            return
        site.go_on()
        if site.is_unused:
            self._probe(site)

    def _probe(self, site: Site) -> None:
        """One of those parked goes; what becomes of it wakes the others."""
        if site.wake(self._queue.hasten, 1):
            self._alarms.set(site, self._clock() + _PROBE_AGAIN_S)

    def wake(self) -> None:
        """Marks were taken away, by an operator: mail that waited because of them wakes."""
        for site in list(self._sites.values()):
            if site.dead_until:
                self._is_dead(site)

    def _is_dead(self, site: Site) -> bool:
        """Whether each of its hosts is marked, be it by another site or by an operator; the
        first to find it back before its time wakes its mail."""
        dead_until = site.hosts.all_marked_until
        if dead_until:
            if dead_until != site.dead_until:
                site.note_dead(dead_until)
                self._alarms.set(site, dead_until)
            return True
        if site.dead_until > self._clock():
            site.dead_until = 0.0
            self._probe(site)
        return False

    def no_connection(self, site: Site, delivery: Delivery, why: Outcome) -> None:
        """None of the site's hosts could be reached: what waits for it waits in vain.

        `delivery` found that out.  It is in the queue again, or ready if others are served.
        """
        dead_until = site.hosts.all_marked_until
        site.note_no_connection(dead_until, why)
        if dead_until:
            self._alarms.set(site, dead_until)
            for waiting in self._transit.each(site.take_ready()):
                self._put_off(waiting, site)
            if delivery.entry:
                # Behind those that were not tried: the next probe is another one.
                site.parked.add(delivery, self._queue.waits, was_tried=True)

    def is_forgotten(self, site: Site) -> bool:
        """Whether it has mail that could go on, and nobody will see to that: a bug."""
        if site in self._alarms or site in self._with_room or self._pool.is_waiting(site):
            return False
        return bool(site.wanted() or (site.is_unused and site.parked))

    def remember(self, site: Site) -> None:
        """Look at it soon."""
        self._alarms.set(site, self._clock())
        self._changed()

    def relayer_left(self, site: Site) -> None:
        """Perhaps the last one."""
        if not site.is_unused:
            return
        if site.parked:
            self._alarms.set_earlier(site, self._clock())
        elif not site.is_worth_keeping:
            self._forget(site)

    def _note_room(self, site: Site) -> None:
        self._with_room[site] = None
        self._changed()

    def _note_limited(self, wait_s: float) -> None:
        self._alarms.set_earlier(_RATE, self._clock() + wait_s)

    def _note_site_limited(self, site: Site, wait_s: float) -> None:
        self._alarms.set_earlier(site, self._clock() + wait_s)

    # -- suspensions -------------------------------------------------------------------------

    def suspend(self, suspended: Suspended) -> None:
        """From now on; what is in a relayer's hand goes on."""
        self.suspensions.add(suspended)
        self._alarms.set(suspended.key, suspended.until)
        for site in list(self._sites.values()):
            if suspended.kind == SITE:
                names = {exchange.name for exchange in site.hosts.exchanges}
                waiting = site.take_ready() if suspended.name in names else []
            else:
                waiting = site.take_ready(lambda one: one.destination == suspended.name)
            for delivery in self._transit.each(waiting):
                self._suspend(delivery, suspended)

    def end_suspension(self, key: SuspendedKey) -> None:
        self._alarms.cancel(key)
        parked = self.suspensions.end(key)
        if parked is not None:
            self.wake_all(parked)

    def _suspend(self, delivery: Delivery, suspended: Suspended) -> None:
        reason = f": {suspended.reason}" if suspended.reason else ""
        reply = Reply(451, "4.3.2", f"{suspended} is suspended by an operator{reason}")
        parked = self.suspensions.parked(suspended)
        self._park(delivery, parked, outcome.of_ours(outcome.CONNECT, reply))

    def _end_if_over(self, key: SuspendedKey) -> None:
        suspended = self.suspensions.get(key)
        if suspended is None:
            return
        if suspended.until > self._clock():
            self._alarms.set(key, suspended.until)
        else:
            logger.info("the suspension of %s is over", suspended)
            self.end_suspension(suspended.key)

    # -- which there are ---------------------------------------------------------------------

    def _site(self, destination: str, exchanges: Exchanges) -> Site:
        key = self._destinations.site_key(destination, exchanges)
        site = self._sites.get(key)
        if site is None:
            self._sweep()
            site = self._sites[key] = self._new_site(key, exchanges)
        site.hosts.exchanges = exchanges
        own = self._limits.own.get(destination)
        if own is not None:
            site.restrict(own)
        return site

    def _new_site(self, key: Hashable, exchanges: Exchanges) -> Site:
        name = ", ".join(exchange.name for exchange in exchanges)
        hosts = SiteHosts(self._calculator, self._source)
        site = Site(
            key,
            name,
            hosts,
            self._limits.usual,
            pool=self._pool,
            node=self._node,
            clock=self._clock,
        )
        hosts.on_connection = site.pace.connect
        site.on_want = self._want
        site.on_room = self._note_room
        site.on_limited = self._note_site_limited
        return site

    def _want(self, site: Site) -> None:
        self._pool.want(site)
        self._changed()

    def _sweep(self) -> None:
        """Forget sites that nobody sends to any more."""
        if len(self._sites) < self._sweep_above:
            return
        past = self._clock() - _SITE_MEMORY_S
        for site in list(self._sites.values()):
            if site.is_unused and not site.parked and site.dead_until < past:
                self._forget(site)
        self._sweep_above = max(1000, 2 * len(self._sites))

    def _forget(self, site: Site) -> None:
        del self._sites[site.key]
        self._alarms.cancel(site)
        self._with_room.pop(site, None)
        self._pool.forget(site)


def _dead(why: str) -> Outcome:
    """Of a site that others found dead, and why; this worker has not tried it."""
    return outcome.of_ours(
        outcome.CONNECT, Reply(451, "4.4.1", f"{_DEAD}: {why}" if why else _DEAD)
    )
