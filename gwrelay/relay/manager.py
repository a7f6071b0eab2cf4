"""The managers: what is due, where it goes, and who takes it there.

check_state() takes what is due from the Queue, files each delivery with its site, and starts
relayers in a bounded pool of greenlets; RelayStateHelper calls it whenever something
changed.  Never speaks SMTP, never touches the disk, never waits for DNS on its own
greenlet.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

from gevent.event import Event
from gevent.pool import Group

from gwrelay.errors import AccountingError
from gwrelay.message import outcome
from gwrelay.message.envelope import message_name
from gwrelay.message.outcome import Outcome
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.failures import ResolutionError
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue, Settled
from gwrelay.relay.attempt import AttemptManager, Ended, settle
from gwrelay.relay.hosts import MX, OFF, Destinations, Exchanges
from gwrelay.relay.limits import LimitPolicy
from gwrelay.relay.lookups import Found, Gathering, Lookups
from gwrelay.relay.node import NodeSites
from gwrelay.relay.pace import rates_of
from gwrelay.relay.pool import Pool
from gwrelay.relay.relayer import (
    ESMTPManagedRelayerFactory,
    ManagedRelayerMixin,
    SMTPManagedRelayerFactory,
)
from gwrelay.relay.routes import Routes
from gwrelay.relay.site import SLOW_S, Site
from gwrelay.relay.sites import Sites
from gwrelay.relay.suspensions import Suspensions
from gwrelay.relay.transit import Transit

logger = logging.getLogger(__name__)

#: Deliveries taken from the queue in one go: enough to keep every relayer busy, few enough
#: that the loop is never long away.
_TAKEN_AT_ONCE = 1000

#: Seconds until more is taken, when that many were due.  Not 0: gevent looks at its sockets only
#: when every greenlet waits for something, and a backlog of a million takes a minute.
_PAUSE_S = 0.001

#: In place of a site's key, of what holds for all of them.
_ALL_SITES = "all sites"

#: Seconds until a delivery is looked at again that could not be filed, for whatever reason.
_UNFILED_RETRY_S = 60.0


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
        limits: LimitPolicy | None = None,
        messages_per_s: float = 0.0,
        rollup: str = MX,
        suspensions: Suspensions | None = None,
        node: NodeSites | None = None,
        dns_concurrency: int = 128,
        ended: Ended | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.queue = queue
        routes = routes or Routes()
        calculator = calculator or MXCalculator(None, clock)
        has_one_site = bool(routes.smarthosts) and rollup != OFF
        make = rates_of(_ALL_SITES, node, clock)
        rate = make("messages", messages_per_s) if messages_per_s else None
        self.pool = Pool(max_connections, has_one_site=has_one_site, message_rate=rate)
        #: Relayers at work, and the attempt each one accounts to.
        self.managed: dict[ManagedRelayerMixin, AttemptManager] = {}
        self._destinations = Destinations(calculator, routes, rollup)
        self._factory = factory or self.factory_class()
        self._ended: Ended = ended or _nobody
        #: Times that a recipient was left in doubt: a later delivery may be its second.
        self.in_doubt = 0
        self._clock = clock
        self._changed = Event()
        #: More is due than was taken.
        self._is_behind = False
        self._stopping = False
        self.transit = Transit()
        self.sites = Sites(
            queue,
            calculator,
            self._destinations,
            self.pool,
            limits=limits or LimitPolicy(),
            suspensions=suspensions or Suspensions(clock),
            source=self._factory.settings.source,
            node=node,
            transit=self.transit,
            settle=self._settle,
            changed=self._changed.set,
            clock=clock,
        )
        self._looked_for_slow_at = 0.0
        # Not gevent's Pool: it blocks who spawns one too many, and has a place again only
        # some time after the last one told of its end.
        self._relayers = Group()
        self._lookups = Lookups(
            self._destinations,
            dns_concurrency,
            transit=self.transit,
            park=self.sites.park,
            wake=self.sites.wake_all,
            file=self._file_guarded,
            changed=self._changed.set,
        )
        queue.on_change = self._changed.set
        queue.on_in_doubt = self._note_end
        queue.is_in_line = self.sites.is_in_line

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
        self.sites.ring()
        due = self.queue.get_waiting(_TAKEN_AT_ONCE)
        for delivery in self.transit.each(due):
            self._guarded(self._route, delivery)
        self._is_behind = len(due) == _TAKEN_AT_ONCE
        self._look_for_slow_ones()
        return self._start_relayers()

    def wait(self, delay_s: float) -> None:
        """Until check_state() may find something new, at most `delay_s` seconds."""
        if self._is_behind and not self._stopping:
            time.sleep(_PAUSE_S)
            return
        for at in (self.queue.next_due_at, self.sites.next_at):
            if at is not None and not self._stopping:
                delay_s = min(delay_s, max(at - self._clock(), 0.0))
        self._changed.wait(delay_s)

    def wake(self) -> None:
        """Let wait() return."""
        self._changed.set()

    @property
    def is_idle(self) -> bool:
        """Nothing is being relayed or looked up; what waits, waits for its time."""
        return not self.managed and not self._lookups

    # -- for those who explain it ----------------------------------------------------------

    def site_of(self, destination: str, exchanges: Exchanges) -> Site | None:
        return self.sites.of(destination, exchanges)

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    def lookups(self) -> list[tuple[str, Gathering]]:
        """Destinations that are being looked up, and what waits for the answer on each."""
        return self._lookups.under_way()

    def is_looking_up(self, destination: str) -> bool:
        return destination in self._lookups

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
        self._lookups.stop()
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
        known = None if destination in self._lookups else self._destinations.cached(destination)
        if known is None:
            self._lookups.add(delivery)
        else:
            self._file(delivery, known)

    def _guarded(self, step: Callable[..., None], delivery: Delivery, *more: object) -> None:
        """One delivery's bug must not hold up the others: it is put off."""
        try:
            step(delivery, *more)
        except Exception:
            logger.exception("filing %s", delivery)
            # If it was settled before something broke, there is nothing to put off.
            with contextlib.suppress(AccountingError):
                self.queue.defer(delivery, _UNFILED_RETRY_S)

    def _file(self, delivery: Delivery, found: Found) -> None:
        if isinstance(found, ResolutionError):
            self._settle(delivery, outcome.of_ours(outcome.DNS, found.reply))
        else:
            self.sites.file(delivery, found)

    def _file_guarded(self, delivery: Delivery, found: Found) -> None:
        self._guarded(self._file, delivery, found)

    # -- who takes it there --------------------------------------------------------------

    def _start_relayers(self) -> list[AttemptManager]:
        """One relayer for each delivery that has none on the way, within window, bound and rates;
        one for each site in turn."""
        started = []
        while (site := self.pool.next_site()) is not None:
            delivery = site.start()
            if delivery is None:
                continue  # it comes back when rates allow that
            started.append(self._start_relayer(site, delivery))
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

    def _start_relayer(self, site: Site, delivery: Delivery) -> AttemptManager:
        attempts = AttemptManager(
            self.queue,
            site,
            ended=self._note_end,
            no_connection=self.sites.no_connection,
            done=self._relayer_done,
        )
        relayer = self._factory.build_relayer(attempts, site.hosts, self.queue)
        self.managed[relayer] = attempts
        site.add_relayer()
        attempts.coming = delivery
        self._relayers.spawn(self._run, relayer, delivery)
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
        self.sites.relayer_left(site)
        self._changed.set()

    def wake_sites(self) -> None:
        """Marks were taken away, by an operator: mail that slept because of them wakes."""
        self.sites.wake()

    def _note_end(
        self, delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
    ) -> None:
        for verdict in told.values():
            if verdict.in_doubt:
                self.in_doubt += 1
                name = message_name(delivery.message_id)
                logger.warning("%s to %s: %s", name, verdict.exchange, verdict.reply)
        self._ended(delivery, attempt, told, settled)

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
