"""Random histories of a manager whose relayers are puppets: no wake-up is ever lost.

What sites, rates, windows, suspensions, marks and lookups do to each other cannot be listed.
Here hosts die and come back, mail is held, released, retried and deleted, the gateway is started
anew; and at the end, when every host answers, everything that nobody keeps is delivered once.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import AsyncResult
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.store import Store
from gwrelay.relay import site as site_module
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.limits import LimitPolicy, SiteLimits
from gwrelay.relay.manager import SmartHostESMTPRelayingManager
from gwrelay.relay.owners import Owners
from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.session import Hosts
from gwrelay.relay.sites import NET_S
from gwrelay.relay.suspensions import DOMAIN, SITE, Suspended, Suspensions
from support.mail import CONTENT, DEFERRED, DELIVERED, FAILED, UNREACHED, envelope
from support.relaying import new_calculator
from support.table_resolver import SetClock, TableResolver, servfail, site

#: b and c share their exchange, d has one of its own at the same address, e has two.
EXCHANGES = {
    "b.test": {"mx.shared.test": (10, ["192.0.2.1"])},
    "c.test": {"mx.shared.test": (10, ["192.0.2.1"])},
    "d.test": {"mx.d.test": (10, ["192.0.2.1"])},
    "e.test": {"mx1.e.test": (10, ["192.0.2.2"]), "mx2.e.test": (20, ["192.0.2.3"])},
}
DOMAINS = st.sampled_from(sorted(EXCHANGES))
ADDRESSES = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
SUSPENDABLE = st.sampled_from(
    [(DOMAIN, "b.test"), (DOMAIN, "e.test"), (SITE, "mx.shared.test"), (SITE, "mx2.e.test")]
)
POLICY = RetryPolicy((60, 300), lifetime_s=100_000, bounce_lifetime_s=100_000, jitter=0.1)
SENDERS = st.sampled_from(["one@a.test", "two@b.test", "three@c.test"])
LIMITS = st.sampled_from(
    [
        SiteLimits(2, 1),
        SiteLimits(3, 3, messages_per_s=0.1),
        SiteLimits(2, 2, connections_per_s=0.05),
        SiteLimits(5, 2, messages_per_s=0.5, connections_per_s=0.2),
    ]
)


class Puppet:
    """A relayer that does what it is told to."""

    def __init__(self, attempts: AttemptManager, hosts: Hosts) -> None:
        self.attempts = attempts
        self.hosts = hosts
        self.stopping = False
        self.is_past_final_dot = False
        self.has_session = False
        self.upcoming = None
        self._word: AsyncResult = AsyncResult()

    def run(self, delivery: Delivery | None) -> None:
        while delivery is not None:
            self.attempts.take(delivery)
            word = self._word.get()
            self._word = AsyncResult()
            word(self, delivery)
            needs_session = not self.has_session
            delivery = self.attempts.site.take(0.0, needs_session=needs_session)
            if delivery is not None and needs_session:
                self.hosts.note_connection()
        self.attempts.notify_done(self)

    def tell(self, word: Callable[["Puppet", Delivery], None]) -> None:
        self._word.set(word)
        settle()


class Puppets(ESMTPManagedRelayerFactory):
    def __init__(self) -> None:
        super().__init__(RelayerSettings("gw.test"))

    def build_relayer(self, attempts: AttemptManager, hosts: Hosts, mail: object) -> Any:
        return Puppet(attempts, hosts)


def settle() -> None:
    """Let every greenlet run that can."""
    gevent.idle()


class RelayingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = SetClock()
        self.store: Store = MemoryStore()
        self.limits = SiteLimits(2, 1)
        self.rate = 0.0
        self.down: set[str] = set()
        self.accepted: set[int] = set()
        self.delivered: Counter[int] = Counter()
        self.held: set[int] = set()
        self.gone: set[int] = set()
        self.running: list[Suspended] = []
        self.moved = False
        self.ready_before = site_module._READY_A_SESSION
        site_module._READY_A_SESSION = 2
        self.start()

    def start(self) -> None:
        self.queue = Queue(
            self.store, retry=POLICY, hostname="gw.test", clock=self.clock, chance=lambda: 0.5
        )
        table = {}
        for domain, hosts in EXCHANGES.items():
            table.update(site(domain, hosts, ttl_s=1e6))
        table.update(site("b.test", self.exchanges_of_b, ttl_s=1e6))
        self.resolver = TableResolver(table)
        self.calculator = new_calculator(self.resolver, self.clock)
        own = {"c.test": SiteLimits(1, 1), "e.test": SiteLimits(4, 4, messages_per_s=1.0)}
        self.manager = SmartHostESMTPRelayingManager(
            self.queue,
            calculator=self.calculator,
            factory=Puppets(),
            max_connections=4,
            limits=LimitPolicy(self.limits, own),
            messages_per_s=self.rate,
            suspensions=Suspensions(self.clock, self.running),
            clock=self.clock,
        )

    def go_on(self) -> None:
        """As RelayStateHelper does, until there is nothing to be done now."""
        while True:
            self.manager.check_state()
            settle()
            times = self.queue.next_due_at, self.manager.sites.next_at
            is_later = all(at is None or at > self.clock.now for at in times)
            if is_later and not self.manager._changed.is_set():
                return

    @property
    def at_work(self) -> list[Puppet]:
        return [one for one in self.manager.managed if one.attempts.in_hand is not None]

    # -- what may happen ---------------------------------------------------------------------

    @rule(domain=DOMAINS, sender=SENDERS, count=st.integers(1, 12))
    def accept(self, domain: str, sender: str, count: int) -> None:
        for n in range(count):
            about = envelope(f"u{n}@{domain}", reverse_path=sender)
            self.accepted.add(self.queue.add_message(about, CONTENT))
        self.go_on()

    @rule(seconds=st.sampled_from([0.3, 2.0, 20.0, 70.0, 700.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.go_on()

    @rule(address=st.sampled_from(ADDRESSES))
    def die_or_come_back(self, address: str) -> None:
        self.down ^= {address}

    @precondition(lambda self: self.at_work)
    @rule(data=st.data(), outcome=st.sampled_from([DELIVERED, DELIVERED, DEFERRED, FAILED]))
    def answer(self, data: st.DataObject, outcome: object) -> None:
        self.tell(data.draw(st.sampled_from(self.at_work)), outcome)
        self.go_on()

    @precondition(lambda self: self.at_work)
    @rule(outcome=st.sampled_from([DELIVERED, DEFERRED]))
    def answer_all(self, outcome: object) -> None:
        for puppet in self.at_work:
            if puppet.attempts.in_hand is not None:
                self.tell(puppet, outcome)
        self.go_on()

    @rule(key=SUSPENDABLE, seconds=st.sampled_from([5.0, 500.0]))
    def suspend(self, key: tuple[str, str], seconds: float) -> None:
        now = self.clock.now
        suspended = Suspended(*key, now, now + seconds, "")
        self.manager.sites.suspend(suspended)
        self.running = [one for one in self.running if one.key != key] + [suspended]
        self.go_on()

    @rule(key=SUSPENDABLE)
    def end_suspension(self, key: tuple[str, str]) -> None:
        self.manager.sites.end_suspension(key)
        self.running = [one for one in self.running if one.key != key]
        self.go_on()

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), order=st.sampled_from(["hold", "release", "retry", "drop"]))
    def obey(self, data: st.DataObject, order: str) -> None:
        message_id = data.draw(st.sampled_from(sorted(self.accepted)))
        if order == "hold":
            if self.queue.orders.hold(message_id, "stop").parts:
                self.held.add(message_id)
        elif order == "release":
            self.queue.orders.release(message_id)
            self.held.discard(message_id)
        elif order == "retry":
            self.queue.orders.retry(message_id)
        elif self.queue.orders.drop(message_id).parts:
            self.gone.add(message_id)
            self.held.discard(message_id)
        self.go_on()

    @rule()
    def mark_good(self) -> None:
        for address in ADDRESSES:
            self.calculator.mark_good(address)
        self.manager.wake_sites()
        self.go_on()

    @rule(limits=LIMITS, rate=st.sampled_from([0.0, 0.2]))
    def restart(self, limits: SiteLimits, rate: float) -> None:
        self.limits, self.rate = limits, rate
        self.manager.stop(0.0)
        settle()
        self.start()
        self.go_on()

    @rule()
    def lookups_break_off(self) -> None:
        """What is not remembered cannot be looked up for a while."""
        for domain in EXCHANGES:
            self.calculator.flush(domain)
        self.resolver.table["b.test", "MX"] = servfail()
        self.pass_time(6.0)

    @rule()
    def move(self) -> None:
        """b.test has other exchanges from now on."""
        self.moved = not self.moved
        self.resolver.table.update(site("b.test", self.exchanges_of_b, ttl_s=1e6))
        self.calculator.flush("b.test")
        self.go_on()

    @property
    def exchanges_of_b(self) -> dict[str, tuple[int, list[str]]]:
        return EXCHANGES["d.test" if self.moved else "b.test"]

    def tell(self, puppet: Puppet, outcome: Any) -> None:
        def word(puppet: Puppet, delivery: Delivery) -> None:
            attempts = puppet.attempts
            for candidate in puppet.hosts.plan().candidates:
                if candidate.address in self.down:
                    puppet.hosts.mark_bad(candidate, UNREACHED)
                    continue
                self.serve(puppet, candidate, delivery, outcome)
                return
            puppet.has_session = False
            attempts.notify_no_connection(puppet, delivery, UNREACHED)

        puppet.tell(word)

    def serve(self, puppet: Puppet, candidate: Candidate, delivery: Delivery, outcome: Any) -> None:
        puppet.has_session = True
        puppet.hosts.mark_good(candidate)
        told = dict.fromkeys(delivery.recipients, outcome)
        if outcome is DELIVERED:
            self.delivered[delivery.message_id] += 1
            puppet.attempts.notify_success(puppet, delivery, told)
        else:
            if outcome is FAILED:
                self.gone.add(delivery.message_id)
            puppet.attempts.notify_failure(puppet, delivery, told)

    # -- what must be so ---------------------------------------------------------------------

    @invariant()
    def nothing_arrives_twice(self) -> None:
        assert all(times == 1 for times in self.delivered.values()), self.delivered

    @invariant()
    def the_self_checks_raise_no_false_alarm(self) -> None:
        for _ in Owners(self.manager).check():
            pass
        for _ in self.queue.selfcheck.round():
            pass
        assert self.queue.violations.count == 0

    @invariant()
    def what_is_kept_ready_is_bounded(self) -> None:
        for one in self.manager.sites:
            assert len(one.ready) <= 4 * 2 * one.window or one.window == 1

    def teardown(self) -> None:
        """From here on every host answers: within hours all is delivered that nobody keeps."""
        site_module._READY_A_SESSION = self.ready_before
        self.down.clear()
        for domain, hosts in EXCHANGES.items():
            self.resolver.table.update(site(domain, hosts, ttl_s=1e6))
        wanted = self.accepted - self.gone - self.held
        began = self.clock.now
        for _ in range(3000):
            self.go_on()
            if set(self.delivered) >= wanted:
                break
            if self.at_work:
                for puppet in self.at_work:
                    if puppet.attempts.in_hand is not None:
                        self.tell(puppet, DELIVERED)
                continue
            times = self.queue.next_due_at, self.manager.sites.next_at
            self.clock.now = max(min(at for at in times if at is not None), self.clock.now)
        assert set(self.delivered) >= wanted, f"never came: {sorted(wanted - set(self.delivered))}"
        # The longest mark is an hour, and the slowest rate one in 20 s.
        assert self.clock.now - began < NET_S, "somebody waited for the net"
        self.manager.stop(0.0)
        settle()


RelayingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_no_wake_up_is_ever_lost = RelayingMachine.TestCase
