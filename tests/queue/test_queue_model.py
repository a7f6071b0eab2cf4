"""Random histories of a Queue against a model: nothing lost, nothing twice, over any restart.

The model knows which recipients are open.  A crash may bring recipients back whose settlement
was not yet synced (twice is permitted), and must never take one away.  A warning of delay it may
take away, with the report, before that is handed out; nobody is warned twice of one recipient.
"""

import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gwrelay.message.envelope import Envelope, Message, Recipient
from gwrelay.message.outcome import Kind
from gwrelay.queue import mailqueue, schedule, selfcheck
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.draft import Draft
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import HOLD, RETRY, WAIT, RetryPolicy
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.standing import HELD as HELD_WORD
from gwrelay.queue.standing import RELAYING, WAITING, Part
from gwrelay.queue.store import Doubt, Host, State, Store
from support.faulty_files import FaultyDisk, Rounds
from support.mail import CONTENT, DEFERRED, DELIVERED, FAILED, HELD, IN_DOUBT, UNREACHED, loaded

POLICY = RetryPolicy(
    (10, 60),
    lifetime_s=300,
    bounce_lifetime_s=100,
    jitter=0.2,
    in_doubt_wait_s=30,
    delay_warning_s=40,
)
DESTINATIONS = ("b.test", "c.test", "d.test")
OUTCOMES = (DELIVERED, DEFERRED, FAILED, IN_DOUBT, HELD)
HOST = Host(IN_DOUBT.exchange, IN_DOUBT.address, 2525)

#: One recipient of one message.
Who = tuple[int, int]


class SteppedStore(MemoryStore):
    """Gives out one message at a time, as it is then."""

    def ids(self) -> Iterator[list[int]]:
        for message_id in sorted(self._states):
            if message_id in self._states:
                yield [message_id]

    def load(self) -> Iterator[list[tuple[int, State]]]:
        for message_id in sorted(self._states):
            if message_id in self._states:
                yield [(message_id, self._states[message_id])]


class QueueMachine(RuleBasedStateMachine):
    #: Room for some of the messages, and for no report.
    resident_bytes = 3 * len(CONTENT)

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.store: Store = SteppedStore()
        #: The policy of the present queue.
        self.in_doubt = WAIT
        #: The warning in which each recipient is said to be delayed.
        self.warnings: dict[Who, int] = {}
        #: Whose senders were warned, as far as they want to be.
        self.marked: set[Who] = set()
        #: Warnings that a crash may take away.
        self.unsynced_reports: set[int] = set()
        self.queue = self.start(load_later=False)
        self.envelopes: dict[int, Envelope] = {}
        self.open: set[Who] = set()
        #: How each recipient ended.  Both a loss and a second delivery would show here.
        self.ended: dict[Who, list[str]] = {}
        #: Ended since the last sync.
        self.unsynced: set[Who] = set()
        self.relaying: list[Delivery] = []
        #: On hold.
        self.held: set[Who] = set()
        #: Accepted since the start, no bounces, and as they were since then.
        self.fresh: set[Who] = set()
        #: Put back at some time; hasten() may be asked for any of them, whatever they do now.
        self.put_back: list[Delivery] = []
        self.drafts: list[Draft] = []
        #: A self-check under way.
        self.check: Iterator[float] = iter(())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(schedule, "_TIDY_ABOVE", 2)
        self.patch.setattr(selfcheck, "_ENTRIES_AT_ONCE", 2)
        self.patch.setattr(selfcheck, "_MESSAGES_AT_ONCE", 2)
        # As many at a time as come.
        self.patch.setattr(mailqueue, "_WARNING_EVERY_S", 0.0)

    def start(self, load_later: bool) -> Queue:
        queue = Queue(
            self.store,
            load_later=load_later,
            retry=POLICY._replace(in_doubt=self.in_doubt),
            hostname="gw.test",
            resident_bytes=self.resident_bytes,
            clock=lambda: self.now,
            chance=lambda: 0.3,
        )
        queue.on_warned = self.hear_warning
        return queue

    def hear_warning(self, original: Message, report: Message, recipients: Collection[int]) -> None:
        """Of what was put off.  It is not synced yet."""
        self.note_warning(original.id, report, recipients)
        self.unsynced_reports.add(report.id)
        self.add_open(report.id, report.envelope)

    def note_warning(self, message_id: int, report: Message, recipients: Collection[int]) -> None:
        for n in recipients:
            assert (message_id, n) not in self.warnings, "warned twice"
            self.warnings[message_id, n] = report.id
        assert self.named(report, message_id, "delayed") == sorted(recipients)

    def named(self, report: Message, message_id: int, action: str) -> list[int]:
        """Those of whom a report says so."""
        text = b"".join(self.queue.get_content(report.id)).decode()
        said = re.findall(r"Final-Recipient: rfc822; (\S+)\r\nAction: (\S+)\r\n", text)
        recipients = enumerate(self.envelopes[message_id].recipients)
        return [n for n, recipient in recipients if (recipient.address, action) in said]

    def note_message(self, message_id: int, about: Envelope) -> None:
        """A message that was accepted is synced, and all that was written before it."""
        self.unsynced.clear()
        self.unsynced_reports.clear()
        self.add_open(message_id, about)

    def add_open(self, message_id: int, about: Envelope) -> None:
        self.envelopes[message_id] = about
        for n in range(len(about.recipients)):
            self.open.add((message_id, n))
            self.ended[message_id, n] = []

    def end(self, who: Who, how: str) -> None:
        self.open.remove(who)
        self.held.discard(who)
        self.ended[who].append(how)
        self.unsynced.add(who)

    def domain(self, who: Who) -> str:
        return self.envelopes[who[0]].recipients[who[1]].domain

    def whose(self, delivery: Delivery) -> set[Who]:
        return {(delivery.message_id, n) for n in delivery.recipients}

    @property
    def in_hand(self) -> set[Who]:
        return {who for delivery in self.relaying for who in self.whose(delivery)}

    # -- what may happen, in any order -----------------------------------------------------

    @rule(
        domains=st.lists(st.sampled_from(DESTINATIONS), min_size=1, max_size=5),
        reverse_path=st.sampled_from(["a@a.test", ""]),
        notify=st.sampled_from(["", "", "NEVER", "FAILURE", "DELAY"]),
    )
    def add(self, domains: list[str], reverse_path: str, notify: str) -> None:
        who = tuple(Recipient(f"u{n}@{name}", notify) for n, name in enumerate(domains))
        about = Envelope(reverse_path, who)
        draft = self.drafts.pop() if self.drafts else self.queue.draft()
        message_id = draft.accept(about, CONTENT).id
        self.note_message(message_id, about)
        if reverse_path:
            self.fresh.update((message_id, n) for n in range(len(who)))

    @rule()
    def draft(self) -> None:
        """A client begins a message, and is slow to end it."""
        self.drafts.append(self.queue.draft())

    @rule(limit=st.integers(1, 4))
    def take(self, limit: int) -> None:
        due = self.queue.get_waiting(limit)
        turns = [(not self.whose(d) & self.fresh, d.due_at) for d in due]
        assert turns == sorted(turns)
        for delivery in due:
            self.fresh -= self.whose(delivery)
            assert delivery.due_at <= self.now
            whose = self.whose(delivery)
            assert whose, "a delivery to nobody"
            assert whose <= self.open, "delivered again"
            assert not whose & (self.held | self.in_hand)
            assert {self.domain(who) for who in whose} == {delivery.destination}
            assert b"".join(self.queue.get_content(delivery.message_id))
            self.relaying.append(delivery)
            self.unsynced_reports.discard(delivery.message_id)

    @precondition(lambda self: self.relaying)
    @rule(pick=st.integers(0, 1000), told=st.lists(st.sampled_from(OUTCOMES), min_size=5))
    def settle(self, pick: int, told: list) -> None:
        delivery = self.relaying.pop(pick % len(self.relaying))
        self.settle_as(delivery, dict(zip(delivery.recipients, told, strict=False)))

    @precondition(lambda self: self.relaying)
    @rule(pick=st.integers(0, 1000))
    def note_in_doubt(self, pick: int) -> None:
        delivery = self.relaying[pick % len(self.relaying)]
        self.queue.note_in_doubt(delivery, HOST)
        assert delivery.doubt == Doubt(HOST, self.now, told=False)

    def part_of(self, who: Who) -> tuple[Part, set[Who]] | None:
        """Where the queue has this recipient, and with whom; None while it is not loaded."""
        for part in self.queue.parts(who[0]):
            if who[1] in part.open.recipients:
                return part, {(who[0], n) for n in part.open.recipients}
        assert not self.queue.is_loaded
        return None

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 1000), order=st.sampled_from(["hold", "release", "retry", "drop"]))
    def order_one(self, pick: int, order: str) -> None:
        """What an operator orders of one part, whatever state it is in."""
        who = sorted(self.open)[pick % len(self.open)]
        if (found := self.part_of(who)) is None:
            return
        part, whose = found
        held, in_hand = bool(whose & self.held), bool(whose & self.in_hand)
        assert part.word == (RELAYING if in_hand else HELD_WORD if held else WAITING)
        arguments = ("by a test",) if order == "hold" else ()
        numbers = {part.open.recipients[0]}
        obeyed = getattr(self.queue.orders, order)(who[0], *arguments, numbers)
        does = {"hold": WAITING, "retry": WAITING, "release": HELD_WORD}.get(order, part.word)
        if in_hand or part.word != does:
            assert obeyed.parts == ()
            assert obeyed.busy == in_hand
            return
        assert [one.recipients for one in obeyed.parts] == [part.open.recipients]
        self.fresh -= whose
        if order == "hold":
            self.held |= whose
        elif order == "release":
            self.held -= whose
        elif order == "drop":
            for one in whose:
                self.end(one, "dropped")
        if order in ("release", "retry"):
            assert self.queue.next_due_at is not None
            assert self.queue.next_due_at <= self.now

    @rule(order=st.sampled_from(["hold", "release", "retry"]))
    def order_all(self, order: str) -> None:
        """The same of all that is loaded, over and over."""
        arguments = ("by a test",) if order == "hold" else ()
        for message_id in [m for some in self.queue.ids() for m in some]:
            for part in self.queue.parts(message_id):
                whose = {(message_id, n) for n in part.open.recipients}
                if order == "hold" and part.word == WAITING:
                    self.held |= whose
                    self.fresh -= whose
                elif order == "retry":
                    self.fresh -= whose
                elif order == "release" and part.word == HELD_WORD:
                    self.held -= whose
            if self.queue.parts(message_id):
                getattr(self.queue.orders, order)(message_id, *arguments)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 1000))
    def release(self, pick: int) -> None:
        message_id = sorted(self.held)[pick % len(self.held)][0]
        self.queue.release(message_id)
        self.held = {who for who in self.held if who[0] != message_id}

    def settle_as(self, delivery: Delivery, told: dict) -> None:
        message_id = delivery.message_id
        lifetime = POLICY.bounce_lifetime_s if delivery.is_bounce else POLICY.lifetime_s
        expired = self.now >= delivery.arrived_at + lifetime
        assert self.queue.has_expired(delivery) == expired
        failed = []
        for n, verdict in told.items():
            if verdict.kind is Kind.DELIVERED:
                self.end((message_id, n), "delivered")
            elif verdict.hold or (verdict.in_doubt and self.in_doubt == HOLD):
                self.held.add((message_id, n))
            elif verdict.kind is Kind.FAILED or expired:
                self.end((message_id, n), "failed")
                failed.append(n)
        wanted = self.expect_warning(delivery)
        settled = self.queue.settle(delivery, told)
        about = self.envelopes[message_id]
        reports_failures = about.reverse_path and about.recipients[0].notify in ("", "FAILURE")
        owed = sorted(failed) if reports_failures else []
        assert sorted(settled.warned) == wanted
        assert (settled.report is not None) == bool(owed or wanted)
        if settled.report is not None:
            assert self.named(settled.report, message_id, "failed") == owed
            self.note_warning(message_id, settled.report, wanted)
            self.note_message(settled.report.id, settled.report.envelope)

    def expect_warning(self, delivery: Delivery) -> list[int]:
        """Marks whom the sender is warned of when this delivery's turn comes to nothing; those of
        them that he wants to hear of."""
        age_s = self.now - delivery.arrived_at
        is_late = POLICY.delay_warning_s <= age_s < POLICY.lifetime_s
        if delivery.is_bounce or not is_late or not self.unwarned & self.whose(delivery):
            return []
        state = self.store.state(delivery.message_id)
        assert state is not None
        # Held for the case that this process ends in the middle of an attempt: nobody else's turn.
        kept = {n for p in state.open if p.held for n in p.recipients} - set(delivery.recipients)
        late = {
            who for who in self.unwarned if who[0] == delivery.message_id and who[1] not in kept
        }
        self.marked |= late
        notify = self.envelopes[delivery.message_id].recipients[0].notify
        return sorted(n for _, n in late) if notify in ("", "DELAY") else []

    @property
    def unwarned(self) -> set[Who]:
        return self.open - self.held - self.marked

    @precondition(lambda self: self.relaying)
    @rule(pick=st.integers(0, 1000))
    def put_off(self, pick: int) -> None:
        """As a manager does while a site is dead."""
        delivery = self.relaying.pop(pick % len(self.relaying))
        before = set(self.warnings)
        state = self.store.state(delivery.message_id)
        assert state is not None
        # One that was noted in doubt under --in-doubt hold: that nobody puts off.
        is_held = any(p.held for p in state.open if p.recipients[0] == delivery.part)
        wanted = [] if is_held else self.expect_warning(delivery)
        self.queue.warn_of_delay(delivery, UNREACHED)
        assert sorted(n for _, n in set(self.warnings) - before) == wanted
        self.queue.set_waiting(delivery, self.now + 20)
        self.put_back.append(delivery)

    @rule(limit=st.integers(1, 4), puts_off=st.booleans())
    def come_to_nothing_late(self, limit: int, puts_off: bool) -> None:
        """What warnings are about, which takes many steps otherwise."""
        self.now += 60.0
        self.take(limit)
        for _ in range(min(limit, len(self.relaying))):
            if puts_off:
                self.put_off(-1)
            else:
                delivery = self.relaying.pop()
                self.settle_as(delivery, dict.fromkeys(delivery.recipients, DEFERRED))

    @precondition(lambda self: self.relaying)
    @rule(pick=st.integers(0, 1000), delay_s=st.sampled_from([None, 0.0, 20.0, 1000.0]))
    def set_waiting(self, pick: int, delay_s: float | None) -> None:
        delivery = self.relaying.pop(pick % len(self.relaying))
        self.queue.set_waiting(delivery, None if delay_s is None else self.now + delay_s)
        self.put_back.append(delivery)

    @precondition(lambda self: self.put_back)
    @rule(pick=st.integers(0, 1000))
    def hasten(self, pick: int) -> None:
        """As a site does that is back, of what went to sleep because of it."""
        one = self.put_back[pick % len(self.put_back)]
        if self.queue.hasten(one.entry, one.message_id, one.part):
            assert self.queue.waits(one.entry) is False

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

    @rule(in_doubt=st.sampled_from([WAIT, RETRY, HOLD]), load_later=st.booleans())
    def restart(self, in_doubt: str, load_later: bool) -> None:
        self.in_doubt = in_doubt
        self.check_loaded(set(), load_later)

    @rule(lists=st.integers(1, 3))
    def load(self, lists: int) -> None:
        """Some of what there was at the start; whatever else happens meanwhile."""
        self.queue.load(Rounds(lists))

    def check_loaded(self, may_be_back: set[Who], load_later: bool) -> None:
        """Start anew on what the store has; those of `may_be_back` may be open again."""
        self.relaying.clear()
        self.put_back.clear()
        self.fresh.clear()
        self.drafts.clear()
        self.check = iter(())
        parts = [(m, part) for m, state in loaded(self.store) for part in state.open]
        back = {(message_id, n) for message_id, part in parts for n in part.recipients}
        self.held = {(m, n) for m, part in parts for n in part.recipients if part.held}
        gone = self.unsynced_reports - {message_id for message_id, _ in back}
        for who in {who for who in self.open - back if who[0] in self.unsynced_reports}:
            self.open.remove(who)
            del self.ended[who]
        assert self.open <= back, "lost"
        assert back <= self.open | may_be_back, "open again"
        for who in back - self.open:
            self.ended[who].pop()
        self.open = back
        self.unsynced.clear()
        self.marked = {(m, n) for m, part in parts for n in part.recipients if part.warned}
        for who in [who for who in self.warnings if who in back - self.marked]:
            assert self.warnings.pop(who) in gone, "warned, and forgotten"
        dropped = {m for (m, _), ends in self.ended.items() if ends}
        assert not (gone - dropped) & set(self.warnings.values()), "not warned, and never will be"
        self.unsynced_reports.clear()
        self.queue = self.start(load_later)

    @precondition(lambda self: self.queue.is_loaded)
    @rule(steps=st.integers(1, 4))
    def go_on_checking(self, steps: int) -> None:
        """A self-check, some steps at a time; whatever else happens between them."""
        for _ in range(steps):
            if next(self.check, None) is None:
                self.check = self.queue.selfcheck.round()

    # -- what must hold --------------------------------------------------------------------

    @invariant()
    def the_self_check_raises_no_false_alarm(self) -> None:
        assert self.queue.violations.count == 0

    @invariant()
    def every_recipient_is_open_or_ended_once(self) -> None:
        for who, ends in self.ended.items():
            assert len(ends) == (who not in self.open)

    @invariant()
    def the_queue_counts_what_is_open(self) -> None:
        queue = self.queue
        assert len(queue.get_relaying()) == len(self.relaying)
        if queue.has_waiting():
            assert queue.next_due_at is not None
        if not queue.is_loaded:
            return
        parts = [part for _, state in loaded(self.store) for part in state.open]
        if isinstance(self.store, MemoryStore):
            assert len(queue) == len(parts)
        waits = self.open - self.held - self.in_hand
        counts = queue.counts
        assert sum(counts) == len(queue)
        assert counts.relaying == len(self.relaying)
        assert queue.has_waiting() == bool(waits)
        assert queue.get_held() == sorted({m for m, _ in self.held})

    @invariant()
    def the_log_says_who_was_warned_of(self) -> None:
        if self.queue.is_loaded:
            states = {m: self.store.state(m) for m, _ in self.open}
            parts = [(m, part) for m, state in states.items() if state for part in state.open]
            warned = {(m, n) for m, part in parts for n in part.recipients if part.warned}
            assert warned == self.marked & self.open

    def teardown(self) -> None:
        self.patch.undo()
        # After a step that failed, whatever comes of it would be told in its place.
        if sys.exc_info()[0] is None:
            self.deliver_all()

    def deliver_all(self) -> None:
        """Whatever happened, what is open can be delivered, and then nothing is left."""
        self.queue.load(threading.Event())
        for message_id in sorted({m for m, _ in self.held}):
            self.queue.release(message_id)
        self.held.clear()
        for delivery in list(self.relaying):
            self.settle_as(delivery, dict.fromkeys(delivery.recipients, DELIVERED))
        self.relaying.clear()
        for _ in chain(self.check, self.queue.selfcheck.round()):
            pass
        assert self.queue.violations.count == 0
        self.now += 2000
        while due := self.queue.get_waiting():
            for delivery in due:
                self.settle_as(delivery, dict.fromkeys(delivery.recipients, DELIVERED))
        assert self.open == set()
        assert len(self.queue) == 0
        assert all(len(ends) == 1 for ends in self.ended.values())
        self.restart(WAIT, load_later=False)
        assert len(self.queue) == 0


class SpoolQueueMachine(QueueMachine):
    """The same over a spool, which can also crash."""

    #: Room for all of them, reports too.
    resident_bytes = 1024 * 1024

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.disk = FaultyDisk(self.directory, seed=1)
        super().__init__()

    def start(self, load_later: bool) -> Queue:
        if isinstance(self.store, MemoryStore):
            self.store = self.open_store()
        return super().start(load_later)

    def open_store(self) -> SpoolStore:
        log = open_spool(
            self.directory, files=self.disk.files, sync=_no_sync, segment_bytes=8 * 1024
        )
        return SpoolStore(log)

    @rule(in_doubt=st.sampled_from([WAIT, RETRY, HOLD]), load_later=st.booleans())
    def restart(self, in_doubt: str, load_later: bool) -> None:
        self.store.close()
        self.store = self.open_store()
        super().restart(in_doubt, load_later)

    @rule(load_later=st.booleans())
    def crash(self, load_later: bool) -> None:
        self.disk.crash()
        self.store = self.open_store()
        self.check_loaded(set(self.unsynced), load_later)

    @rule(
        limit=st.integers(1, 4),
        holds=st.booleans(),
        goes_out=st.booleans(),
        load_later=st.booleans(),
    )
    def crash_upon_warnings(
        self, limit: int, holds: bool, goes_out: bool, load_later: bool
    ) -> None:
        """Before they are synced, perhaps with something written of their messages behind them,
        or when they have just been handed out."""
        self.come_to_nothing_late(limit, puts_off=True)
        if holds:
            self.order_all("hold")
        if goes_out:
            self.now += 10.0
            self.take(4)
        self.crash(load_later)

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
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestQueueAgainstModel = QueueMachine.TestCase
TestQueueAgainstModel.settings = _SETTINGS
TestSpoolQueueAgainstModel = SpoolQueueMachine.TestCase
TestSpoolQueueAgainstModel.settings = settings(_SETTINGS, max_examples=40)
