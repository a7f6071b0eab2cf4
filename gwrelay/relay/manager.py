"""The managers: what is due, where it goes, and who takes it there.

check_state() takes what is due from the Queue, finds each delivery's site, and starts
relayers in a bounded pool of greenlets; RelayStateHelper calls it whenever something
changed.  Never speaks SMTP, never touches the disk, never waits for DNS on its own
greenlet.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping

from gevent.event import Event
from gevent.pool import Group

from gwrelay.errors import AccountingError
from gwrelay.message import outcome
from gwrelay.message.envelope import message_name
from gwrelay.message.outcome import Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.failures import ResolutionError
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue, Settled
from gwrelay.relay.attempt import AttemptManager, Ended, settle
from gwrelay.relay.hosts import Destinations, Exchanges, SiteHosts, site_key
from gwrelay.relay.pool import Pool
from gwrelay.relay.relayer import (
    ESMTPManagedRelayerFactory,
    ManagedRelayerMixin,
    SMTPManagedRelayerFactory,
)
from gwrelay.relay.routes import Routes
from gwrelay.relay.site import SLOW_S, Site

logger = logging.getLogger(__name__)

#: Deliveries taken from the queue in one go: enough to keep every relayer busy, few enough
#: that the loop is never long away.
_TAKEN_AT_ONCE = 1000

#: Seconds a site is remembered after the end of its last death, for the sake of its window.
_SITE_MEMORY_S = 3600.0

#: Seconds until a delivery is looked at again that could not be filed, for whatever reason.
_UNFILED_RETRY_S = 60.0

_LOOKUP_BROKE = Reply(451, "4.4.3", "internal error while looking up the destination")


class SmartHostSMTPRelayingManager:
    """Relays what a Queue holds, by HELO alone; see SmartHostESMTPRelayingManager.

    With `routes.smarthosts` everything goes to these; without, to each destination's own
    exchanges.  `ended` is told how each delivery's attempt ended.
    """

    factory_class: type[SMTPManagedRelayerFactory] = SMTPManagedRelayerFactory

    def __init__(
        self,
        queue: Queue,
        *,
        calculator: MXCalculator | None = None,
        routes: Routes | None = None,
        factory: SMTPManagedRelayerFactory | None = None,
        max_connections: int = 2000,
        max_site_connections: int = 20,
        initial_site_connections: int = 5,
        dns_concurrency: int = 128,
        ended: Ended | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.queue = queue
        routes = routes or Routes()
        self.pool = Pool(max_connections, has_one_site=bool(routes.smarthosts))
        #: Relayers at work, and the attempt each one accounts to.
        self.managed: dict[ManagedRelayerMixin, AttemptManager] = {}
        self._calculator = calculator or MXCalculator(None, clock)
        self._destinations = Destinations(self._calculator, routes)
        self._factory = factory or self.factory_class()
        self._max_site_connections = max_site_connections
        self._initial_site_connections = initial_site_connections
        self._ended: Ended = ended or _nobody
        #: Times that a recipient was left in doubt: a later delivery may be its second.
        self.in_doubt = 0
        self._clock = clock
        self._sites: dict[Hashable, Site] = {}
        self._sweep_above = 1000
        self._looked_for_slow_at = 0.0
        # Not gevent's Pool: it blocks who spawns one too many, and has a place again only
        # some time after the last one told of its end.
        self._relayers = Group()
        self._lookups = Group()
        self._free_lookups = dns_concurrency
        #: Deliveries whose destination is being looked up, by destination.
        self._unresolved: dict[str, list[Delivery]] = {}
        #: Destinations among them whose lookup has not begun, oldest first.
        self._to_look_up: deque[str] = deque()
        self._changed = Event()
        self._stopping = False
        queue.on_change = self._changed.set
        queue.on_in_doubt = self._note_end

    @property
    def max_connections(self) -> int:
        return self.pool.limit

    @property
    def max_messages_per_connection(self) -> int:
        return self._factory.settings.max_messages_per_connection

    def check_state(self) -> list[AttemptManager]:
        """File what is due with its site, and start the relayers that are wanted.

        Returns the attempts it started; each has an event, `completed`.
        """
        self._changed.clear()
        if self._stopping:
            return []
        due = self.queue.get_waiting(_TAKEN_AT_ONCE)
        for delivery in due:
            self._guarded(self._route, delivery)
        if len(due) == _TAKEN_AT_ONCE:
            self._changed.set()
        self._look_for_slow_ones()
        return self._start_relayers()

    def wait(self, delay_s: float) -> None:
        """Until check_state() may find something new, at most `delay_s` seconds."""
        due_at = self.queue.next_due_at
        if due_at is not None and not self._stopping:
            delay_s = min(delay_s, max(due_at - self._clock(), 0.0))
        self._changed.wait(delay_s)

    def wake(self) -> None:
        """Let wait() return."""
        self._changed.set()

    @property
    def is_idle(self) -> bool:
        """Nothing is being relayed or looked up; what waits, waits for its time."""
        return not self.managed and not self._unresolved

    # -- for those who explain it ----------------------------------------------------------

    def sites(self) -> list[Site]:
        """All that have mail under way, or are remembered."""
        return list(self._sites.values())

    def site_of(self, exchanges: Exchanges) -> Site | None:
        return self._sites.get(site_key(exchanges))

    def is_looking_up(self, destination: str) -> bool:
        return destination in self._unresolved

    def exchanges_of(
        self, destination: str, *, asks: bool = False
    ) -> Exchanges | ResolutionError | None:
        """What is known; None when name servers must be asked.  With `asks` they are, which blocks
        this greenlet."""
        found = self._destinations.cached(destination)
        return self._destinations.find(destination) if found is None and asks else found

    def stop(self, within_s: float) -> None:
        """Start nothing new, let relayers finish what they have in hand, end the rest.

        What is cut off stays as it was before its attempt: waiting, and durable.
        """
        self._stopping = True
        self._changed.set()
        self._lookups.kill()
        for relayer, attempts in list(self.managed.items()):
            relayer.stopping = True
            attempts.site.release()
        if not self._relayers.join(timeout=within_s):
            cut_off = [r for r in self.managed if r.is_past_final_dot]
            logger.warning(
                "%d relayers cut off after %g s; %d of them past the final dot, in doubt",
                len(self.managed),
                within_s,
                len(cut_off),
            )
            self._relayers.kill()

    # -- where each delivery goes --------------------------------------------------------

    def _route(self, delivery: Delivery) -> None:
        """File `delivery` with its site, or have its destination looked up first."""
        destination = delivery.destination
        if (others := self._unresolved.get(destination)) is not None:
            others.append(delivery)
            return
        known = self._destinations.cached(destination)
        if known is None:
            self._unresolved[destination] = [delivery]
            self._to_look_up.append(destination)
            if self._free_lookups:
                self._free_lookups -= 1
                self._lookups.spawn(self._look_up_waiting)
        else:
            self._file(delivery, known)

    def _look_up_waiting(self) -> None:
        """On its own greenlet: one destination after the other, until none is left."""
        while self._to_look_up:
            self._look_up(self._to_look_up.popleft())
        self._free_lookups += 1

    def _look_up(self, destination: str) -> None:
        """Ask, then file whatever has gathered meanwhile."""
        found: Exchanges | ResolutionError = ResolutionError(_LOOKUP_BROKE, None)
        try:
            found = self._destinations.find(destination)
        except Exception:
            logger.exception("looking up %s", destination)
        for delivery in self._unresolved.pop(destination):
            self._guarded(self._file, delivery, found)
        self._changed.set()

    def _guarded(self, step: Callable[..., None], delivery: Delivery, *more: object) -> None:
        """One delivery's bug must not hold up the others: it is put off."""
        try:
            step(delivery, *more)
        except Exception:
            logger.exception("filing %s", delivery)
            # If it was settled before something broke, there is nothing to put off.
            with contextlib.suppress(AccountingError):
                self.queue.defer(delivery, _UNFILED_RETRY_S)

    def _file(self, delivery: Delivery, found: Exchanges | ResolutionError) -> None:
        if isinstance(found, ResolutionError):
            self._settle(delivery, outcome.of_ours(outcome.DNS, found.reply))
            return
        site = self._site(found)
        if self._is_dead(site):
            self._put_off(delivery, site)
        else:
            site.put(delivery)

    def _site(self, exchanges: Exchanges) -> Site:
        key = site_key(exchanges)
        site = self._sites.get(key)
        if site is None:
            self._sweep_sites()
            name = ", ".join(exchange.name for exchange in exchanges)
            hosts = SiteHosts(self._calculator, self._factory.settings.source)
            site = self._sites[key] = Site(
                key,
                name,
                self._max_site_connections,
                hosts,
                initial=self._initial_site_connections,
                pool=self.pool,
            )
            site.on_want = self._want
        site.hosts.exchanges = exchanges
        return site

    def _sweep_sites(self) -> None:
        """Forget sites that nobody sends to any more."""
        if len(self._sites) < self._sweep_above:
            return
        past = self._clock() - _SITE_MEMORY_S
        for key, site in list(self._sites.items()):
            if site.is_unused and site.dead_until < past:  # those asleep had their turn since
                del self._sites[key]
        self._sweep_above = max(1000, 2 * len(self._sites))

    # -- who takes it there --------------------------------------------------------------

    def _want(self, site: Site) -> None:
        self.pool.want(site)
        self._changed.set()

    def _start_relayers(self) -> list[AttemptManager]:
        """One relayer for each delivery that has none on the way, within window and bound; one
        for each site in turn."""
        started = []
        while (site := self.pool.next_site()) is not None:
            started.append(self._start_relayer(site))
            if site.wanted():
                self.pool.want(site)
        self.pool.make_room()
        return started

    def _look_for_slow_ones(self) -> None:
        """Now and then: an attempt that hangs is not seen before it ends."""
        now = time.monotonic()
        if now < self._looked_for_slow_at + SLOW_S / 5:
            return
        self._looked_for_slow_at = now
        for attempts in self.managed.values():
            if attempts.in_hand is not None and now - attempts.since > SLOW_S:
                attempts.site.note_slow()

    def _start_relayer(self, site: Site) -> AttemptManager:
        attempts = AttemptManager(
            self.queue,
            site,
            ended=self._note_end,
            no_connection=self._no_connection,
            done=self._relayer_done,
        )
        relayer = self._factory.build_relayer(attempts, site.hosts, self.queue)
        self.managed[relayer] = attempts
        site.add_relayer()
        self._relayers.spawn(self._run, relayer, site.ready.popleft())
        return attempts

    def _run(self, relayer: ManagedRelayerMixin, delivery: Delivery) -> None:
        """The guard: a bug ends one relayer, not the gateway; its delivery is deferred."""
        try:
            relayer.run(delivery)
        except Exception:
            logger.exception("relayer for %s", relayer.attempts.site.name)

    def _relayer_done(self, relayer: ManagedRelayerMixin) -> None:
        site = self.managed.pop(relayer).site
        site.remove_relayer()
        if site.is_unused and not site.is_worth_keeping:
            self._sites.pop(site.key, None)
        self._changed.set()

    def wake_sites(self) -> None:
        """Marks were taken away, by an operator: mail that slept because of them wakes."""
        for site in list(self._sites.values()):
            self._is_dead(site)

    def _is_dead(self, site: Site) -> bool:
        """Whether each of its hosts is marked, be it by another site or by an operator; the
        first to find it back before its time wakes its mail."""
        dead_until = site.hosts.all_marked_until
        if dead_until:
            if dead_until != site.dead_until:
                site.note_dead(dead_until)
            return True
        if site.dead_until > self._clock():
            site.dead_until = 0.0
            site.wake(self.queue.hasten)
        return False

    def _note_end(
        self, delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
    ) -> None:
        for verdict in told.values():
            if verdict.in_doubt:
                self.in_doubt += 1
                name = message_name(delivery.message_id)
                logger.warning("%s to %s: %s", name, verdict.exchange, verdict.reply)
        self._ended(delivery, attempt, told, settled)

    def _no_connection(self, site: Site, delivery: Delivery, why: Outcome) -> None:
        """None of the site's hosts could be reached: what waits for it waits in vain.

        `delivery` found that out.  It is in the queue again, or ready if others are served.
        """
        dead_until = site.hosts.all_marked_until
        site.note_no_connection(dead_until, why)
        if dead_until:
            if delivery.entry:
                site.sleep(delivery, self.queue.waits)
            for waiting in site.take_ready():
                self._put_off(waiting, site)

    def _put_off(self, delivery: Delivery, site: Site) -> None:
        """The site is dead: this is no attempt, unless the delivery's time is over."""
        if self.queue.has_expired(delivery) and site.last_failure is not None:
            self._settle(delivery, site.last_failure)
        else:
            self.queue.set_waiting(delivery, site.next_turn())
            site.sleep(delivery, self.queue.waits)

    def _settle(self, delivery: Delivery, told: Outcome) -> None:
        """The same outcome for every recipient, without a relayer."""
        settle(self.queue, delivery, dict.fromkeys(delivery.recipients, told), self._ended)


class SmartHostESMTPRelayingManager(SmartHostSMTPRelayingManager):
    """Relays by EHLO, with the extensions the next hop offers; what `serve` runs."""

    factory_class = ESMTPManagedRelayerFactory


class RelayStateHelper:
    """Calls a manager's check_state() whenever something changed, and every `delay` seconds."""

    def __init__(self, manager: SmartHostSMTPRelayingManager, delay: float = 1.0) -> None:
        self.manager = manager
        self.delay = delay

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; spawn this."""
        while not stop.is_set():
            try:
                self.manager.check_state()
            except Exception:
                # Whatever it was, it must not end all relaying; the log has it, once a delay.
                logger.exception("check_state")
                stop.wait(self.delay)
            else:
                self.manager.wait(self.delay)


def _nobody(
    delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
) -> None:
    """No one wants to know."""
