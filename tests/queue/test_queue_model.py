"""Random histories of a Queue against a model: nothing lost, nothing twice, over any restart.

The model knows which recipients are open.  A crash may bring recipients back whose settlement
was not yet synced (twice is permitted), and must never take one away.
"""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.outcome import Kind
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.store import Store
from support.faulty_files import FaultyDisk
from support.mail import CONTENT, DEFERRED, DELIVERED, FAILED, IN_DOUBT

POLICY = RetryPolicy((10, 60), lifetime_s=300, bounce_lifetime_s=100, jitter=0.2)
DESTINATIONS = ("b.test", "c.test", "d.test")
OUTCOMES = (DELIVERED, DEFERRED, FAILED, IN_DOUBT)

#: One recipient of one message.
Who = tuple[int, int]


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.store: Store = MemoryStore()
        self.queue = self.start()
        self.envelopes: dict[int, Envelope] = {}
        self.open: set[Who] = set()
        #: How each recipient ended.  Both a loss and a second delivery would show here.
        self.ended: dict[Who, list[str]] = {}
        #: Ended since the last sync.
        self.unsynced: set[Who] = set()
        self.relaying: list[Delivery] = []

    def start(self) -> Queue:
        return Queue(
            self.store,
            retry=POLICY,
            hostname="gw.test",
            resident_bytes=3 * len(CONTENT),
            clock=lambda: self.now,
            chance=lambda: 0.3,
        )

    def note_message(self, message_id: int, about: Envelope) -> None:
        """A message that was accepted is synced, and all that was written before it."""
        self.unsynced.clear()
        self.envelopes[message_id] = about
        for n in range(len(about.recipients)):
            self.open.add((message_id, n))
            self.ended[message_id, n] = []

    def end(self, who: Who, how: str) -> None:
        self.open.remove(who)
        self.ended[who].append(how)
        self.unsynced.add(who)

    def open_at(self, message_id: int, destination: str) -> set[int]:
        recipients = self.envelopes[message_id].recipients
        found = {n for m, n in self.open if m == message_id}
        return {n for n in found if recipients[n].domain == destination}

    # -- what may happen, in any order -----------------------------------------------------

    @rule(
        domains=st.lists(st.sampled_from(DESTINATIONS), min_size=1, max_size=5),
        reverse_path=st.sampled_from(["a@a.test", ""]),
        notify=st.sampled_from(["", "", "NEVER"]),
    )
    def add(self, domains: list[str], reverse_path: str, notify: str) -> None:
        who = tuple(Recipient(f"u{n}@{name}", notify) for n, name in enumerate(domains))
        about = Envelope(reverse_path, who)
        self.note_message(self.queue.add_message(about, CONTENT), about)

    @rule(limit=st.integers(1, 4))
    def take(self, limit: int) -> None:
        for delivery in self.queue.get_waiting(limit):
            assert delivery.due_at <= self.now
            assert set(delivery.recipients) == self.open_at(
                delivery.message_id, delivery.destination
            )
            assert delivery.recipients, "a delivery to nobody"
            assert (delivery.message_id, delivery.destination) not in {
                (d.message_id, d.destination) for d in self.relaying
            }
            assert b"".join(self.queue.get_content(delivery.message_id))
            self.relaying.append(delivery)

    @precondition(lambda self: self.relaying)
    @rule(pick=st.integers(0, 1000), told=st.lists(st.sampled_from(OUTCOMES), min_size=5))
    def settle(self, pick: int, told: list) -> None:
        delivery = self.relaying.pop(pick % len(self.relaying))
        self.settle_as(delivery, dict(zip(delivery.recipients, told, strict=False)))

    def settle_as(self, delivery: Delivery, told: dict) -> None:
        message_id = delivery.message_id
        lifetime = POLICY.bounce_lifetime_s if delivery.is_bounce else POLICY.lifetime_s
        expired = self.now >= delivery.arrived_at + lifetime
        assert self.queue.has_expired(delivery) == expired
        failed = []
        for n, verdict in told.items():
            if verdict.kind is Kind.DELIVERED:
                self.end((message_id, n), "delivered")
            elif verdict.kind is Kind.FAILED or expired:
                self.end((message_id, n), "failed")
                failed.append(n)
        settled = self.queue.settle(delivery, told)
        about = self.envelopes[message_id]
        owed = [n for n in failed if about.reverse_path and about.recipients[n].notify != "NEVER"]
        assert (settled.report is not None) == bool(owed)
        if settled.report is not None:
            text = b"".join(self.queue.get_content(settled.report.id)).decode()
            named = [n for n, r in enumerate(about.recipients) if f"<{r.address}>" in text]
            assert named == sorted(owed)
            self.note_message(settled.report.id, settled.report.envelope)

    @precondition(lambda self: self.relaying)
    @rule(pick=st.integers(0, 1000), delay_s=st.sampled_from([None, 0.0, 20.0, 1000.0]))
    def set_waiting(self, pick: int, delay_s: float | None) -> None:
        delivery = self.relaying.pop(pick % len(self.relaying))
        self.queue.set_waiting(delivery, None if delay_s is None else self.now + delay_s)

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 1000))
    def done(self, pick: int) -> None:
        message_id = sorted(self.open)[pick % len(self.open)][0]
        self.queue.done(message_id)
        for who in [who for who in self.open if who[0] == message_id]:
            self.end(who, "dropped")
        self.relaying = [d for d in self.relaying if d.message_id != message_id]

    @rule(seconds=st.sampled_from([1.0, 10.0, 60.0, 150.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.check_claimed(set())

    def check_claimed(self, may_be_back: set[Who]) -> None:
        """Start anew on what the store has; those of `may_be_back` may be open again."""
        self.relaying.clear()
        back = {
            (message_id, n)
            for message_id, state in self.store.claim()
            for part in state.open
            for n in part.recipients
        }
        assert self.open <= back, "lost"
        assert back <= self.open | may_be_back, "open again"
        for who in back - self.open:
            self.ended[who].pop()
        self.open = back
        self.unsynced.clear()
        self.queue = self.start()

    # -- what must hold --------------------------------------------------------------------

    @invariant()
    def every_recipient_is_open_or_ended_once(self) -> None:
        for who, ends in self.ended.items():
            assert len(ends) == (who not in self.open)

    @invariant()
    def the_queue_counts_what_is_open(self) -> None:
        destinations = {
            (message_id, self.envelopes[message_id].recipients[n].domain)
            for message_id, n in self.open
        }
        assert len(self.queue) == len(destinations)
        assert len(self.queue.get_relaying()) == len(self.relaying)
        assert (self.queue.next_due_at is not None) == self.queue.has_waiting()

    def teardown(self) -> None:
        """Whatever happened, what is open can be delivered, and then nothing is left."""
        for delivery in list(self.relaying):
            self.settle_as(delivery, dict.fromkeys(delivery.recipients, DELIVERED))
        self.relaying.clear()
        self.now += 2000
        while due := self.queue.get_waiting():
            for delivery in due:
                self.settle_as(delivery, dict.fromkeys(delivery.recipients, DELIVERED))
        assert self.open == set()
        assert len(self.queue) == 0
        assert all(len(ends) == 1 for ends in self.ended.values())
        self.restart()
        assert len(self.queue) == 0


class SpoolQueueMachine(QueueMachine):
    """The same over a spool, which can also crash."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.disk = FaultyDisk(self.directory, seed=1)
        super().__init__()

    def start(self) -> Queue:
        if isinstance(self.store, MemoryStore):
            self.store = self.open_store()
        return super().start()

    def open_store(self) -> SpoolStore:
        log = open_spool(
            self.directory, files=self.disk.files, sync=_no_sync, segment_bytes=8 * 1024
        )
        return SpoolStore(log)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.open_store()
        self.check_claimed(set())

    @rule()
    def crash(self) -> None:
        self.disk.crash()
        self.store = self.open_store()
        self.check_claimed(set(self.unsynced))

    def teardown(self) -> None:
        try:
            super().teardown()
            self.store.close()
        finally:
            shutil.rmtree(self.directory)


def _no_sync(descriptor: int) -> None:
    """FaultyDisk knows what is durable; the real disk need not."""


_SETTINGS = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestQueueAgainstModel = QueueMachine.TestCase
TestQueueAgainstModel.settings = _SETTINGS
TestSpoolQueueAgainstModel = SpoolQueueMachine.TestCase
TestSpoolQueueAgainstModel.settings = settings(_SETTINGS, max_examples=40)
