"""What the tests of relay/ relay with: one relayer by itself, or a whole manager."""

import random
import socket
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gwrelay.message.envelope import Envelope
from gwrelay.message.outcome import Outcome
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.denied import Denied
from gwrelay.mx.exchanges import Exchange, Rules
from gwrelay.mx.policy import MXPolicy
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import RESIDENT_BYTES, Queue, Settled
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.store import Store
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.hosts import SiteHosts
from gwrelay.relay.limits import LimitPolicy, SiteLimits
from gwrelay.relay.manager import (
    SmartHostESMTPRelayingManager,
    SmartHostSMTPRelayingManager,
)
from gwrelay.relay.relayer import (
    ESMTPManagedRelayerFactory,
    ManagedRelayerMixin,
    RelayerSettings,
    SMTPManagedRelayerFactory,
)
from gwrelay.relay.routes import Routes
from gwrelay.relay.site import Site
from support.mail import CONTENT
from support.peer import Peer
from support.table_resolver import SetClock, Table, TableResolver, site

RETRY = RetryPolicy((60, 300), lifetime_s=1000, bounce_lifetime_s=500, jitter=0.0)

#: Address and port.
Place = tuple[str, int]


class End(NamedTuple):
    """How one delivery's attempt ended, as `ended` was told it."""

    message_id: int
    attempt: int
    told: Mapping[int, Outcome]
    settled: Settled

    @property
    def kinds(self) -> list[str]:
        return [self.told[n].kind.value for n in sorted(self.told)]

    @property
    def replies(self) -> list[str]:
        return [str(self.told[n].reply) for n in sorted(self.told)]


def nobody_listens() -> Place:
    """A port of loopback that was just given back."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        found: Place = sock.getsockname()
    return found


def new_queue(
    store: Store,
    clock: Callable[[], float],
    retry: RetryPolicy = RETRY,
    *,
    resident_bytes: int = RESIDENT_BYTES,
) -> Queue:
    return Queue(
        store,
        retry=retry,
        hostname="gw.test",
        resident_bytes=resident_bytes,
        clock=clock,
        chance=lambda: 0.5,
    )


def new_calculator(resolver: TableResolver, clock: Callable[[], float]) -> MXCalculator:
    """Over a table, which may name loopback; marks last 30 s, 60 s, 120 s, without jitter."""
    rules = Rules(denied=Denied(()))
    policy = MXPolicy(rules=rules, bad_time_first_s=30.0, bad_time_jitter=0.0)
    return MXCalculator(resolver, clock, policy=policy, rng=random.Random(1))


class Rig:
    """One site with `places`, the most preferred first, and relayers that run right here.

    `limit` is the most sessions the site may have.
    """

    def __init__(
        self,
        *places: Peer | Place,
        factory: SMTPManagedRelayerFactory | None = None,
        store: Store | None = None,
        equal: bool = False,
        limit: int = 20,
        **settings: object,
    ) -> None:
        self.clock = SetClock()
        self.store = store or MemoryStore()
        self.restart()
        self.calculator = new_calculator(TableResolver({}), self.clock)
        self.hosts = SiteHosts(self.calculator, "")
        self.hosts.exchanges = tuple(
            Exchange(0 if equal else n, f"mx{n}.test", (address,), port)
            for n, (address, port) in enumerate(map(_address, places))
        )
        self.site = Site("key", "mx.test", self.hosts, SiteLimits(limit, limit))
        settings = {"hostname": "gw.test", "idle_timeout_s": 0.0, **settings}
        self.factory = factory or ESMTPManagedRelayerFactory(RelayerSettings(**settings))
        self.ends: list[End] = []
        self.unreached: list[Outcome] = []
        self.done: list[ManagedRelayerMixin] = []

    def restart(self, resident_bytes: int = RESIDENT_BYTES) -> None:
        """A new queue on what the store has.  With 0 `resident_bytes` it reads all content while
        that goes out."""
        self.queue = new_queue(self.store, self.clock, resident_bytes=resident_bytes)

    def new_attempts(self) -> AttemptManager:
        return AttemptManager(
            self.queue,
            self.site,
            ended=self._ended,
            no_connection=lambda site, delivery, why: self.unreached.append(why),
            done=self.done.append,
        )

    def new_relayer(self) -> ManagedRelayerMixin:
        return self.factory.build_relayer(self.new_attempts(), self.hosts, self.queue)

    def add(self, *envelopes: Envelope, content: bytes = CONTENT) -> list[Delivery]:
        """Accept messages and take all that is due."""
        for about in envelopes:
            self.queue.add_message(about, content)
        return self.queue.get_waiting()

    def relay(self, *envelopes: Envelope, content: bytes = CONTENT) -> list[End]:
        """Let one relayer carry these messages, one after the other, and go."""
        return self.run(self.add(*envelopes, content=content))

    def run(self, deliveries: list[Delivery]) -> list[End]:
        before = len(self.ends)
        first, *others = deliveries
        for delivery in others:
            self.site.put(delivery)
        self.site.relayers = 1
        self.new_relayer().run(first)
        self.site.relayers = 0
        return self.ends[before:]

    def is_bad(self, place: Peer | Place) -> bool:
        address, port = _address(place)
        return self.calculator.bad_until(address, "", port) > self.clock.now

    def _ended(
        self, delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
    ) -> None:
        self.ends.append(End(delivery.message_id, attempt, dict(told), settled))


class Relay:
    """A queue and a manager over a table of exchanges, all on one port of loopback addresses.

    `exchanges` is {domain: {name: (preference, [address, ...])}}.
    """

    def __init__(
        self,
        exchanges: Mapping[str, Mapping[str, tuple[int, list[str]]]],
        port: int = 25,
        *,
        store: Store | None = None,
        clock: Callable[[], float] | None = None,
        retry: RetryPolicy = RETRY,
        routes: Routes | None = None,
        manager_class: type[SmartHostSMTPRelayingManager] = SmartHostESMTPRelayingManager,
        settings: Mapping[str, object] | None = None,
        limits: SiteLimits | None = None,
        own_limits: Mapping[str, SiteLimits] | None = None,
        **options: object,
    ) -> None:
        self.set_clock = SetClock()
        self.clock = clock or self.set_clock
        self.queue = new_queue(store or MemoryStore(), self.clock, retry)
        table: Table = {}
        for domain, hosts in exchanges.items():
            table.update(site(domain, hosts, ttl_s=86400.0))
        self.resolver = TableResolver(table)
        self.calculator = new_calculator(self.resolver, self.clock)
        given = {
            "hostname": "gw.test",
            "smtp_port": port,
            "idle_timeout_s": 0.0,
            **(settings or {}),
        }
        self.ends: list[End] = []
        factory = manager_class.factory_class(RelayerSettings(**given))
        self.manager = manager_class(
            self.queue,
            calculator=self.calculator,
            routes=routes,
            factory=factory,
            ended=self._ended,
            clock=self.clock,
            limits=LimitPolicy(limits or SiteLimits(), own_limits or {}),
            **options,
        )

    def send(self, *envelopes: Envelope, content: bytes = CONTENT) -> list[int]:
        return [self.queue.add_message(about, content) for about in envelopes]

    def run(self, timeout: float = 10.0) -> list[End]:
        """Relay what is due until nothing is; how it ended."""
        before = len(self.ends)
        self.run_until(self._at_rest, timeout)
        while self.manager.check_state():
            self.run_until(self._at_rest, timeout)
        return self.ends[before:]

    def run_until(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"relaying went on: {self.manager.managed}"
            self.manager.check_state()
            self.manager.wait(0.05)

    def _at_rest(self) -> bool:
        times = self.queue.next_due_at, self.manager.sites.next_at
        waits = all(at is None or at > self.clock() for at in times)
        # Rates may keep what is ready.
        ready = sum(len(site.ready) for site in self.manager.sites)
        return waits and self.manager.is_idle and len(self.queue.get_relaying()) == ready

    def _ended(
        self, delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
    ) -> None:
        self.ends.append(End(delivery.message_id, attempt, dict(told), settled))


def _address(place: Peer | Place) -> Place:
    return place.address if isinstance(place, Peer) else place
