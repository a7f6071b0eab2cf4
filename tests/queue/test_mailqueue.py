"""The Queue: what it has accepted and not yet settled, and what it tells the sender."""

import threading
from collections.abc import Callable, Iterator, Mapping
from email import message_from_bytes
from pathlib import Path

import pytest

from gwrelay.errors import AccountingError, StoreFailed, StoreFull
from gwrelay.message.envelope import Message, Recipient
from gwrelay.message.outcome import Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue, Settled
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.store import Doubt, Host, NewMessage, State
from support.faulty_files import FaultyDisk
from support.mail import CONTENT, DEFERRED, DELIVERED, FAILED, HELD, IN_DOUBT, envelope, loaded
from support.table_resolver import SetClock

POLICY = RetryPolicy(
    (60, 300), lifetime_s=1000, bounce_lifetime_s=500, jitter=0.0, in_doubt_wait_s=200
)


class CountingStore(MemoryStore):
    """Counts what is read back, and fails where a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.fails: set[str] = set()

    def _check(self, what: str) -> None:
        if what in self.fails:
            raise StoreFailed(f"{what} fails")

    def message(self, message_id: int) -> Message:
        self._check("message")
        return super().message(message_id)

    def content(self, message_id: int) -> Iterator[bytes]:
        self._check("content")
        self.reads += 1
        return super().content(message_id)

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        self._check("settle")
        super().settle(message_id, state, report)

    def flush(self) -> None:
        self._check("flush")


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def queue(store: CountingStore, clock: SetClock) -> Queue:
    return reopened(store, clock)


def reopened(store: MemoryStore, clock: Callable[[], float]) -> Queue:
    return Queue(store, retry=POLICY, hostname="gw.test", clock=clock, chance=lambda: 0.5)


def take(queue: Queue) -> dict[str, Delivery]:
    """What is due now, by destination."""
    return {delivery.destination: delivery for delivery in queue.get_waiting()}


def all_of(delivery: Delivery, told: Outcome) -> dict[int, Outcome]:
    return dict.fromkeys(delivery.recipients, told)


def settle(queue: Queue, delivery: Delivery, told: Outcome) -> Message | None:
    """Settle with one outcome for all; the report it caused."""
    return queue.settle(delivery, all_of(delivery, told)).report


# -- states --------------------------------------------------------------------------------


def test_a_new_message_waits_and_is_due_at_once(queue: Queue, clock: SetClock) -> None:
    assert not queue.has_waiting()
    message_id = queue.add_message(envelope("b@b.test"), CONTENT)
    assert queue.has_waiting()
    assert len(queue) == 1
    assert queue.next_due_at == clock.now
    assert queue.get_relaying() == []
    assert queue.get_envelope(message_id) == envelope("b@b.test")


def test_what_just_came_is_taken_before_however_much_is_due_since_long(
    queue: Queue, clock: SetClock
) -> None:
    for n in range(30):
        queue.add_message(envelope(f"{n}@old.test"), CONTENT)
    for delivery in queue.get_waiting():
        queue.set_waiting(delivery, clock.now + 1)
    queue.add_message(envelope("x@bounces.test", reverse_path=""), CONTENT)
    clock.advance(60)
    queue.add_message(envelope("a@b.test"), CONTENT)
    queue.add_message(envelope("a@c.test"), CONTENT)
    taken = [d.destination for d in queue.get_waiting(4)]
    assert taken == ["b.test", "c.test", "bounces.test", "old.test"]


def test_a_bounce_that_just_came_waits_for_its_turn(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("a@b.test"), CONTENT)
    queue.defer(take(queue)["b.test"], 10.0)
    clock.advance(60)
    queue.add_message(envelope("x@bounces.test", reverse_path=""), CONTENT)
    assert [d.destination for d in queue.get_waiting()] == ["b.test", "bounces.test"]


def test_a_report_waits_for_its_turn_behind_what_just_came(queue: Queue) -> None:
    queue.add_message(envelope("a@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    settle(queue, delivery, FAILED)
    queue.add_message(envelope("a@c.test"), CONTENT)
    assert [d.destination for d in queue.get_waiting()] == ["c.test", "a.test"]


def test_one_delivery_for_each_destination(queue: Queue) -> None:
    queue.add_message(envelope("a@b.test", "c@c.test", "d@B.TEST", "e@b.test."), CONTENT)
    found = {name: delivery.recipients for name, delivery in take(queue).items()}
    assert found == {"b.test": (0, 2, 3), "c.test": (1,)}


def test_what_is_taken_is_relaying_and_not_handed_out_again(queue: Queue) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    [delivery] = queue.get_waiting()
    assert not queue.has_waiting()
    assert queue.get_relaying() == [delivery]
    assert queue.get_waiting() == []
    assert len(queue) == 1


def test_no_more_are_taken_than_asked_for(queue: Queue) -> None:
    for _ in range(5):
        queue.add_message(envelope("b@b.test"), CONTENT)
    assert [len(queue.get_waiting(3)) for _ in range(3)] == [3, 2, 0]


def test_a_delivered_message_is_done_and_gone(queue: Queue, store: CountingStore) -> None:
    message_id = queue.add_message(envelope("b@b.test"), CONTENT)
    assert settle(queue, take(queue)["b.test"], DELIVERED) is None
    assert (len(queue), queue.get_relayed()) == (0, 1)
    assert loaded(store) == []
    with pytest.raises(StoreFailed, match="is gone"):
        queue.get_envelope(message_id)


def test_a_deferred_delivery_waits_for_its_delay(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    settle(queue, take(queue)["b.test"], DEFERRED)
    assert queue.get_waiting() == []
    assert queue.next_due_at == clock.now + 60
    clock.advance(59.9)
    assert queue.get_waiting() == []
    clock.advance(0.1)
    again = take(queue)["b.test"]
    assert (again.attempts, again.recipients) == (1, (0,))
    settle(queue, again, DEFERRED)
    assert queue.next_due_at == clock.now + 300


def test_set_waiting_counts_no_attempt_and_writes_nothing(
    queue: Queue, store: CountingStore, clock: SetClock
) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    before = loaded(store)
    queue.set_waiting(take(queue)["b.test"])
    delivery = take(queue)["b.test"]
    queue.set_waiting(delivery, clock.now + 10)
    assert take(queue) == {}
    clock.advance(10)
    delivery = take(queue)["b.test"]
    assert (delivery.attempts, delivery.due_at, delivery.recipients) == (0, clock.now, (0,))
    assert loaded(store) == before


def test_of_what_is_put_off_to_one_time_another_comes_first_each_time(
    queue: Queue, clock: SetClock
) -> None:
    """Else the same message would try a dead host again and again, and the others never."""
    ids = [queue.add_message(envelope("b@b.test"), CONTENT) for _ in range(3)]
    firsts = []
    for _ in range(3):
        first, *others = queue.get_waiting()
        firsts.append(first.message_id)
        for delivery in (*others, first):
            queue.defer(delivery, 30)
        clock.advance(30)
    assert firsts == ids


def test_defer_is_set_waiting_for_so_many_seconds(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    queue.defer(take(queue)["b.test"], 25)
    assert queue.next_due_at == clock.now + 25


def test_what_waits_can_be_due_now_and_then_is_no_longer(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    name = delivery.message_id, delivery.part
    assert not queue.hasten(delivery.entry, *name), "it is being relayed"
    queue.set_waiting(delivery, clock.now + 500)
    assert queue.waits(delivery.entry)
    changes = []
    queue.on_change = lambda: changes.append(queue.next_due_at)
    assert queue.hasten(delivery.entry, *name)
    assert changes == [clock.now]
    assert take(queue)["b.test"].message_id == delivery.message_id
    assert not queue.hasten(delivery.entry, *name)
    assert not queue.waits(delivery.entry)
    clock.advance(500)
    assert take(queue) == {}, "once is enough"
    assert len(queue) == 1


def test_what_was_deferred_can_be_due_now_too(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    settle(queue, delivery, DEFERRED)
    assert queue.hasten(delivery.entry, delivery.message_id, delivery.part)
    again = take(queue)["b.test"]
    assert (again.message_id, again.attempts) == (delivery.message_id, 1)
    clock.advance(10_000)
    assert take(queue) == {}


def test_what_is_put_off_comes_back_at_the_end_of_its_lifetime(
    queue: Queue, clock: SetClock
) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    queue.set_waiting(delivery, clock.now + 5000)
    assert queue.next_due_at == clock.now + 1000
    clock.advance(1000)
    delivery = take(queue)["b.test"]
    # Past it, the time that was asked for: at once would be a loop without an end.
    queue.set_waiting(delivery, clock.now + 60)
    assert queue.next_due_at == clock.now + 60


def test_set_relaying_takes_a_delivery_that_is_in_no_schedule(queue: Queue) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    settle(queue, delivery, DELIVERED)
    queue.set_relaying(delivery)
    assert queue.get_relaying() == [delivery]


def test_settling_what_is_not_being_relayed_is_a_bug(queue: Queue) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    queue.set_waiting(delivery)
    with pytest.raises(AccountingError):
        settle(queue, delivery, DELIVERED)
    settle(queue, take(queue)["b.test"], DELIVERED)
    with pytest.raises(AccountingError):
        settle(queue, delivery, DELIVERED)
    assert queue.get_relayed() == 1


def test_putting_back_what_is_not_being_relayed_is_a_bug(queue: Queue) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    queue.set_waiting(delivery)
    with pytest.raises(AccountingError):
        queue.set_waiting(delivery)
    assert len(queue.get_waiting()) == 1


def test_a_missing_outcome_is_refused_and_the_delivery_still_relayed(queue: Queue) -> None:
    queue.add_message(envelope("a@b.test", "b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    with pytest.raises(AccountingError):
        queue.settle(delivery, {0: DELIVERED})
    assert queue.get_relaying() == [delivery]
    settle(queue, delivery, DELIVERED)
    assert len(queue) == 0


def test_a_settlement_the_store_refuses_has_not_happened(
    queue: Queue, store: CountingStore
) -> None:
    """Else the rest of the message would go with the next settlement."""
    queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    store.fails.add("settle")
    for told in (DELIVERED, DEFERRED, FAILED):
        with pytest.raises(StoreFailed):
            settle(queue, taken["b.test"], told)
    assert taken["b.test"].attempts == 0
    assert len(queue) == 2
    store.fails.clear()
    queue.defer(taken["b.test"], 0)
    settle(queue, taken["c.test"], DELIVERED)
    assert len(loaded(store)) == 1
    settle(queue, take(queue)["b.test"], DELIVERED)
    assert loaded(store) == []
    assert len(queue) == 0


def test_done_drops_a_message_wherever_it_is(queue: Queue, store: CountingStore) -> None:
    gone = queue.add_message(envelope("b@b.test", "c@c.test", "d@d.test"), CONTENT)
    taken = take(queue)
    queue.set_waiting(taken["c.test"])
    stays = queue.add_message(envelope("b@b.test"), CONTENT)
    settle(queue, taken["d.test"], DEFERRED)
    queue.done(gone)
    assert [message_id for message_id, _ in loaded(store)] == [stays]
    assert len(queue) == 1
    assert [d.message_id for d in queue.get_waiting()] == [stays]
    with pytest.raises(AccountingError):
        settle(queue, taken["b.test"], DEFERRED)
    assert [message_id for message_id, _ in loaded(store)] == [stays]


def test_on_change_is_called_by_everything_that_may_be_due(queue: Queue) -> None:
    calls: list[str] = []

    def did(step: str) -> None:
        assert calls, f"{step} told nobody"
        calls.clear()

    queue.on_change = lambda: calls.append("changed")
    queue.add_message(envelope("b@b.test"), CONTENT)
    did("add_message")
    queue.set_waiting(take(queue)["b.test"])
    did("set_waiting")
    settle(queue, take(queue)["b.test"], FAILED)
    did("settle")


def test_on_change_is_not_called_by_an_attempt_that_leaves_nothing(queue: Queue) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    calls: list[str] = []
    queue.on_change = lambda: calls.append("changed")
    settle(queue, take(queue)["b.test"], DELIVERED)
    assert calls == []


# -- several destinations -------------------------------------------------------------------


@pytest.mark.parametrize("order", ["bcd", "dcb", "cbd"])
def test_destinations_settle_in_any_order_and_the_last_drops_the_message(
    queue: Queue, store: CountingStore, order: str
) -> None:
    queue.add_message(envelope("x@b.test", "y@c.test", "z@d.test"), CONTENT)
    taken = take(queue)
    for n, letter in enumerate(order):
        assert len(loaded(store)) == 1
        assert queue.get_relayed() == 0
        settle(queue, taken[f"{letter}.test"], DELIVERED)
        assert len(queue) == 2 - n
    assert loaded(store) == []
    assert queue.get_relayed() == 1


def test_a_restart_brings_back_what_is_open_and_only_that(
    queue: Queue, store: CountingStore, clock: SetClock
) -> None:
    queue.add_message(envelope("a@b.test", "b@b.test", "c@c.test", "d@d.test"), CONTENT)
    taken = take(queue)
    queue.settle(taken["b.test"], {0: DELIVERED, 1: DEFERRED})
    settle(queue, taken["c.test"], DELIVERED)
    queue = reopened(store, clock)
    clock.advance(60)
    found = {d.destination: (d.recipients, d.attempts) for d in queue.get_waiting()}
    assert found == {"b.test": ((1,), 1), "d.test": ((3,), 0)}


def test_a_restart_in_the_middle_of_an_attempt_leaves_it_waiting(
    queue: Queue, store: CountingStore, clock: SetClock
) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    queue.get_waiting()
    queue = reopened(store, clock)
    assert (queue.get_relaying(), len(queue.get_waiting())) == ([], 1)


def test_a_restart_keeps_the_time_a_delivery_waits_for(
    queue: Queue, store: CountingStore, clock: SetClock
) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    settle(queue, take(queue)["b.test"], DEFERRED)
    due_at = queue.next_due_at
    clock.advance(30)
    queue = reopened(store, clock)
    assert queue.next_due_at == due_at
    assert queue.get_waiting() == []


def test_a_clock_that_was_ahead_keeps_nothing_waiting_after_a_restart(
    queue: Queue, store: CountingStore, clock: SetClock
) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    clock.advance(1e8)
    queue.add_message(envelope("c@c.test"), CONTENT)
    settle(queue, take(queue)["c.test"], DEFERRED)
    clock.advance(-1e8)
    queue = reopened(store, clock)
    clock.advance(300)
    taken = take(queue)
    assert set(taken) == {"b.test", "c.test"}
    assert not queue.has_expired(taken["c.test"])
    clock.advance(700)
    assert queue.has_expired(taken["c.test"]), "it would live for as long as the clock was ahead"


def test_a_clock_set_back_keeps_nothing_waiting_for_as_long_again(
    queue: Queue, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.advance(1e6)
    queue.add_message(envelope("b@b.test"), CONTENT)
    settle(queue, take(queue)["b.test"], DEFERRED)
    clock.advance(-1e6)
    assert take(queue) == {}
    assert "went back" in caplog.text
    clock.advance(POLICY.longest_delay_s)
    assert set(take(queue)) == {"b.test"}


# -- in doubt ---------------------------------------------------------------------------------

HOST = Host("mx.test", "192.0.2.1", 2525)


def with_policy(store: MemoryStore, clock: SetClock, in_doubt: str) -> Queue:
    return Queue(
        store,
        retry=POLICY._replace(in_doubt=in_doubt),
        hostname="gw.test",
        clock=clock,
        chance=lambda: 0.5,
    )


@pytest.mark.parametrize(("in_doubt", "delay_s"), [("wait", 200), ("retry", 60)])
def test_what_was_noted_in_doubt_is_in_doubt_after_a_restart(
    store: CountingStore, clock: SetClock, in_doubt: str, delay_s: float
) -> None:
    queue = with_policy(store, clock, in_doubt)
    queue.add_message(envelope("a@b.test", "b@b.test", "c@c.test"), CONTENT)
    delivery = take(queue)["b.test"]
    queue.note_in_doubt(delivery, HOST)
    assert delivery.doubt == Doubt(HOST, clock.now, told=False)
    noted_at = clock.now
    queue = with_policy(store, clock, in_doubt)
    assert set(take(queue)) == {"c.test"}
    clock.advance(delay_s - 1)
    assert take(queue) == {}
    clock.advance(1)
    again = take(queue)["b.test"]
    assert (again.recipients, again.attempts) == ((0, 1), 1)
    assert again.doubt == Doubt(HOST, noted_at, told=False)


def told_by_a_start(store: MemoryStore, clock: SetClock) -> tuple[Queue, list[tuple[object, ...]]]:
    """A new queue on what the store has, and what it says on loading it."""
    queue = Queue(store, retry=POLICY, clock=clock, chance=lambda: 0.5, load_later=True)
    told: list[tuple[object, ...]] = []

    def tell(
        delivery: Delivery, attempt: int, outcomes: Mapping[int, Outcome], settled: Settled
    ) -> None:
        assert settled.message is not None
        assert [part.recipients for part in settled.settlement.remaining] == [delivery.recipients]
        told.append((settled.message.id, attempt, {n: o.in_doubt for n, o in outcomes.items()}))

    queue.on_in_doubt = tell
    queue.load(threading.Event())
    return queue, told


def test_what_a_crash_left_in_doubt_is_told_once(store: CountingStore, clock: SetClock) -> None:
    queue = with_policy(store, clock, "wait")
    message_id = queue.add_message(envelope("a@b.test", "b@b.test", "c@c.test"), CONTENT)
    queue.note_in_doubt(take(queue)["b.test"], HOST)
    queue, told = told_by_a_start(store, clock)
    assert told == [(message_id, 1, {0: True, 1: True})]
    assert told_by_a_start(store, clock)[1] == []
    clock.advance(POLICY.in_doubt_wait_s)
    assert take(queue)["b.test"].doubt == Doubt(HOST, clock.now - POLICY.in_doubt_wait_s)


def test_what_was_told_in_doubt_is_not_told_again_by_a_start(
    store: CountingStore, clock: SetClock
) -> None:
    queue = with_policy(store, clock, "wait")
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    queue.note_in_doubt(delivery, HOST)
    settle(queue, delivery, IN_DOUBT)
    assert told_by_a_start(store, clock)[1] == []


def test_under_hold_what_was_noted_in_doubt_is_held_after_a_restart(
    store: CountingStore, clock: SetClock
) -> None:
    queue = with_policy(store, clock, "hold")
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    queue.note_in_doubt(take(queue)["b.test"], HOST)
    assert queue.get_held() == [], "it is being relayed"
    queue = with_policy(store, clock, "hold")
    assert (queue.get_held(), set(take(queue))) == ([message_id], {"c.test"})
    assert len(queue) == 2


@pytest.mark.parametrize("in_doubt", ["wait", "retry", "hold"])
def test_what_was_noted_in_doubt_and_not_sent_waits_again(
    store: CountingStore, clock: SetClock, in_doubt: str
) -> None:
    queue = with_policy(store, clock, in_doubt)
    queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    queue.note_in_doubt(taken["b.test"], HOST)
    for delivery in taken.values():
        queue.set_waiting(delivery)
    assert set(take(queue)) == {"b.test", "c.test"}
    assert queue.get_held() == []


@pytest.mark.parametrize("told", [DELIVERED, DEFERRED, FAILED])
@pytest.mark.parametrize("in_doubt", ["wait", "hold"])
def test_an_answer_ends_the_doubt(
    store: CountingStore, clock: SetClock, told: Outcome, in_doubt: str
) -> None:
    queue = with_policy(store, clock, in_doubt)
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    queue.note_in_doubt(taken["b.test"], HOST)
    settle(queue, taken["b.test"], told)
    state = store.state(message_id)
    assert state is not None
    assert all(part.doubt is None and not part.held for part in state.open)
    assert queue.get_held() == []
    assert with_policy(store, clock, in_doubt).get_held() == []


def test_other_parts_keep_what_was_noted_of_one(store: CountingStore, clock: SetClock) -> None:
    queue = with_policy(store, clock, "wait")
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    queue.note_in_doubt(taken["b.test"], HOST)
    settle(queue, taken["c.test"], DEFERRED)
    state = store.state(message_id)
    assert state is not None
    doubts = {part.destination: part.doubt for part in state.open}
    assert doubts == {"b.test": Doubt(HOST, clock.now, told=False), "c.test": None}


def test_only_what_is_being_relayed_can_be_in_doubt(queue: Queue) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    queue.set_waiting(delivery)
    with pytest.raises(AccountingError):
        queue.note_in_doubt(delivery, HOST)
    assert delivery.doubt is None


def test_recipients_in_doubt_go_their_own_way(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("a@b.test", "b@b.test", "c@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    queue.settle(delivery, {0: DEFERRED, 1: IN_DOUBT, 2: DEFERRED})
    assert len(queue) == 2
    clock.advance(60)
    [others] = queue.get_waiting()
    assert (others.recipients, others.doubt) == ((0, 2), None)
    queue.settle(others, dict.fromkeys((0, 2), DELIVERED))
    clock.advance(140)
    [doubtful] = queue.get_waiting()
    assert doubtful.recipients == (1,)
    assert doubtful.doubt is not None
    queue.settle(doubtful, {1: DELIVERED})
    assert (len(queue), queue.get_relayed()) == (0, 1)


# -- on hold ----------------------------------------------------------------------------------


def test_what_is_damaged_is_held_and_never_tried_again(
    queue: Queue, store: CountingStore, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    assert settle(queue, taken["b.test"], HELD) is None
    assert "held: checksum" in caplog.text
    assert queue.get_held() == [message_id]
    settle(queue, taken["c.test"], DELIVERED)
    for _ in range(2):
        clock.advance(5000)
        assert (queue.get_waiting(), queue.has_waiting(), len(queue)) == ([], False, 1)
        assert queue.get_held() == [message_id]
        queue = reopened(store, clock)


def test_what_is_released_is_tried_at_once(
    queue: Queue, store: CountingStore, clock: SetClock
) -> None:
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    settle(queue, take(queue)["b.test"], HELD)
    clock.advance(100)
    calls: list[str] = []
    queue.on_change = lambda: calls.append("changed")
    assert queue.release(message_id) == 1
    assert calls
    assert queue.get_held() == []
    delivery = take(queue)["b.test"]
    assert (delivery.attempts, delivery.due_at) == (1, clock.now)
    assert queue.release(message_id) == 0
    assert set(take(reopened(store, clock))) == {"b.test", "c.test"}
    settle(queue, delivery, DELIVERED)
    assert len(queue) == 1


def test_what_is_gone_cannot_be_released(queue: Queue) -> None:
    with pytest.raises(StoreFailed, match="is gone"):
        queue.release(12345)


def test_a_held_message_can_be_dropped(queue: Queue, store: CountingStore) -> None:
    message_id = queue.add_message(envelope("b@b.test"), CONTENT)
    settle(queue, take(queue)["b.test"], HELD)
    queue.done(message_id)
    assert (len(queue), queue.get_held(), loaded(store)) == (0, [], [])


# -- lifetime ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reverse_path", "lifetime_s"), [("a@a.test", 1000), ("", 500)], ids=["mail", "bounce"]
)
def test_a_delivery_has_expired_when_its_lifetime_is_over(
    queue: Queue, clock: SetClock, reverse_path: str, lifetime_s: float
) -> None:
    queue.add_message(envelope("b@b.test", reverse_path=reverse_path), CONTENT)
    delivery = take(queue)["b.test"]
    clock.advance(lifetime_s - 1)
    assert not queue.has_expired(delivery)
    clock.advance(1)
    assert queue.has_expired(delivery)


def test_a_deferral_past_the_lifetime_ends_in_a_report(queue: Queue, clock: SetClock) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    delivery = take(queue)["b.test"]
    clock.advance(1000)
    settled = queue.settle(delivery, {0: DEFERRED})
    assert settled.settlement.expired == {0}
    assert settled.report is not None
    text = b"".join(queue.get_content(settled.report.id)).decode()
    assert "Status: 4.4.7" in text
    assert "greylisted" in text


# -- reports ------------------------------------------------------------------------------------


def test_a_failure_is_reported_to_the_reverse_path(queue: Queue) -> None:
    original = queue.add_message(envelope("b@b.test"), CONTENT)
    settled = queue.settle(take(queue)["b.test"], {0: FAILED})
    report = settled.report
    assert report is not None
    assert settled.message is not None
    assert settled.message.id == original
    assert report.envelope == envelope("sender@a.test", reverse_path="")
    parsed = message_from_bytes(b"".join(queue.get_content(report.id)))
    assert parsed.get_content_type() == "multipart/report"
    assert parsed["To"] == "<sender@a.test>"
    assert "nobody of that name" in parsed.as_string()
    assert "Subject: hello" in parsed.as_string()
    waiting = take(queue)
    assert [d.message_id for d in waiting.values()] == [report.id]
    assert waiting["a.test"].is_bounce


def test_recipients_that_fail_together_share_a_report(queue: Queue) -> None:
    queue.add_message(envelope("a@b.test", "b@b.test", "c@b.test", "d@b.test"), CONTENT)
    told = {0: FAILED, 1: DELIVERED, 2: FAILED, 3: DEFERRED}
    report = queue.settle(take(queue)["b.test"], told).report
    assert report is not None
    text = b"".join(queue.get_content(report.id)).decode()
    assert [f"<{n}@b.test>" in text for n in "abcd"] == [True, False, True, False]
    assert text.count("Action: failed") == 2


@pytest.mark.parametrize(
    ("notify", "owed"),
    [
        ("", True),
        ("FAILURE", True),
        ("SUCCESS,FAILURE,DELAY", True),
        ("NEVER", False),
        ("SUCCESS", False),
        ("DELAY", False),
    ],
)
def test_a_report_is_owed_unless_notify_says_otherwise(
    queue: Queue, notify: str, owed: bool
) -> None:
    queue.add_message(envelope(Recipient("b@b.test", notify)), CONTENT)
    assert (settle(queue, take(queue)["b.test"], FAILED) is not None) is owed
    assert len(queue) == owed
    assert queue.get_relayed() == 1


def test_who_was_relayed_to_a_host_that_reports_nothing_is_reported(queue: Queue) -> None:
    """RFC 3461 5.2.2; beside one that failed."""
    asked = Recipient("a@b.test", "SUCCESS,FAILURE")
    queue.add_message(envelope(asked, "b@b.test", Recipient("c@b.test", "SUCCESS")), CONTENT)
    told = {0: DELIVERED._replace(relayed=True), 1: FAILED, 2: FAILED}
    report = queue.settle(take(queue)["b.test"], told).report
    assert report is not None
    text = b"".join(queue.get_content(report.id)).decode()
    assert text.count("Action: relayed") == 1
    assert text.count("Action: failed") == 1
    assert "c@b.test" not in text
    assert len(queue) == 1


def test_a_bounce_that_is_relayed_is_not_reported(queue: Queue) -> None:
    queue.add_message(envelope(Recipient("b@b.test", "SUCCESS"), reverse_path=""), CONTENT)
    assert settle(queue, take(queue)["b.test"], DELIVERED._replace(relayed=True)) is None
    assert len(queue) == 0


def test_only_those_who_want_it_are_in_the_report(queue: Queue) -> None:
    queue.add_message(envelope(Recipient("a@b.test", "NEVER"), "b@b.test"), CONTENT)
    report = settle(queue, take(queue)["b.test"], FAILED)
    assert report is not None
    text = b"".join(queue.get_content(report.id)).decode()
    assert "b@b.test" in text
    assert "a@b.test" not in text


@pytest.mark.parametrize("told", [FAILED, DEFERRED, IN_DOUBT])
def test_a_bounce_is_never_bounced(queue: Queue, clock: SetClock, told: Outcome) -> None:
    queue.add_message(envelope("b@b.test", reverse_path=""), CONTENT)
    delivery = take(queue)["b.test"]
    clock.advance(500)
    assert settle(queue, delivery, told) is None
    assert len(queue) == 0


def test_a_report_that_cannot_be_delivered_ends_there(queue: Queue) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    assert settle(queue, take(queue)["b.test"], FAILED) is not None
    assert settle(queue, take(queue)["a.test"], FAILED) is None
    assert len(queue) == 0


def test_a_report_and_the_end_of_its_message_are_one_record(
    store: CountingStore, clock: SetClock
) -> None:
    records: list[tuple[bool, bool]] = []

    class Watching(CountingStore):
        def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
            records.append((state is None, report is not None))
            super().settle(message_id, state, report)

    queue = reopened(Watching(), clock)
    queue.add_message(envelope("b@b.test"), CONTENT)
    settle(queue, take(queue)["b.test"], FAILED)
    assert records == [(True, True)]


def test_a_report_is_handed_out_only_once_it_can_be_read(clock: SetClock) -> None:
    seen: list[int] = []

    class Slow(CountingStore):
        def flush(self) -> None:
            seen.append(len(queue.get_waiting()))

    queue = reopened(Slow(), clock)
    queue.add_message(envelope("b@b.test"), CONTENT)
    settle(queue, take(queue)["b.test"], FAILED)
    assert seen == [0]
    assert len(queue.get_waiting()) == 1


@pytest.mark.parametrize("error", [StoreFull("no room"), StoreFailed("no disk")])
def test_a_report_waits_while_the_disk_does_not_take_it(clock: SetClock, error: Exception) -> None:
    class Stuck(CountingStore):
        def flush(self) -> None:
            raise error

    queue = reopened(Stuck(), clock)
    queue.add_message(envelope("b@b.test"), CONTENT)
    assert settle(queue, take(queue)["b.test"], FAILED) is not None
    assert queue.get_waiting() == []
    clock.advance(60)
    assert len(queue.get_waiting()) == 1


def test_a_report_caused_on_a_full_disk_is_delivered_and_survives(
    tmp_path: Path, clock: SetClock
) -> None:
    disk = FaultyDisk(tmp_path / "spool")
    queue = reopened(SpoolStore(open_spool(disk.path, files=disk.files)), clock)
    queue.add_message(envelope("b@b.test"), CONTENT)
    disk.room = 0
    report = settle(queue, take(queue)["b.test"], FAILED)
    assert report is not None
    clock.advance(60)
    assert b"nobody of that name" in b"".join(queue.get_content(report.id))
    disk.room = None
    queue.close()
    queue = reopened(SpoolStore(open_spool(disk.path)), clock)
    assert [d.message_id for d in queue.get_waiting()] == [report.id]
    queue.close()


def test_a_report_lacks_only_the_header_when_the_content_is_unreadable(
    store: CountingStore, clock: SetClock
) -> None:
    queue = Queue(store, retry=POLICY, resident_bytes=0, clock=clock)
    queue.add_message(envelope("b@b.test"), CONTENT)
    store.fails.add("content")
    report = settle(queue, take(queue)["b.test"], FAILED)
    store.fails.clear()
    assert report is not None
    text = b"".join(queue.get_content(report.id)).decode()
    assert "nobody of that name" in text
    assert "Subject: hello" not in text


def test_a_message_that_cannot_be_read_is_settled_all_the_same(
    store: CountingStore, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(store, retry=POLICY, resident_bytes=0, clock=clock)
    queue.add_message(envelope("b@b.test"), CONTENT)
    store.fails.add("message")
    settled = queue.settle(take(queue)["b.test"], {0: FAILED})
    assert settled.message is None
    assert settled.report is None
    assert "cannot be read" in caplog.text
    assert len(queue) == 0


# -- what stays in memory -----------------------------------------------------------------------


def test_a_message_is_not_read_back_for_its_first_attempt(
    queue: Queue, store: CountingStore
) -> None:
    message_id = queue.add_message(envelope("b@b.test"), CONTENT)
    assert b"".join(queue.get_content(message_id)) == CONTENT
    assert store.reads == 0


@pytest.mark.parametrize("told", [DELIVERED, DEFERRED, FAILED])
def test_the_first_attempt_gives_its_memory_back(
    store: CountingStore, clock: SetClock, told: Outcome
) -> None:
    queue = Queue(store, retry=POLICY, resident_bytes=16 * len(CONTENT), clock=clock)
    for _ in range(3):  # bounces, which have a sixteenth of it
        message_id = queue.add_message(envelope("b@b.test", reverse_path=""), CONTENT)
        assert b"".join(queue.get_content(message_id)) == CONTENT
        assert store.reads == 0
        settle(queue, take(queue)["b.test"], told)


def test_a_report_is_not_read_back_for_its_first_attempt(
    queue: Queue, store: CountingStore
) -> None:
    queue.add_message(envelope("b@b.test"), CONTENT)
    report = settle(queue, take(queue)["b.test"], FAILED)
    assert report is not None
    store.fails |= {"message", "content"}
    assert queue.get_message(report.id) == report
    assert b"nobody of that name" in b"".join(queue.get_content(report.id))
    assert settle(queue, take(queue)["a.test"], DEFERRED) is None
    with pytest.raises(StoreFailed):
        queue.get_message(report.id)


def test_a_storm_of_reports_leaves_the_memory_to_other_mail(
    store: CountingStore, clock: SetClock
) -> None:
    budget = 1600 * len(CONTENT)
    queue = Queue(store, retry=POLICY, resident_bytes=budget, clock=clock)
    for n in range(50):
        queue.add_message(envelope(f"{n}@b.test"), CONTENT)
    reports = [settle(queue, delivery, FAILED) for delivery in queue.get_waiting()]
    kept_bytes = 0
    for report in reports:
        assert report is not None
        before, content = store.reads, b"".join(queue.get_content(report.id))
        kept_bytes += len(content) * (store.reads == before)
    assert budget / 16 - len(content) < kept_bytes <= budget / 16
    reads = store.reads
    for n in range(1499):
        queue.get_content(queue.add_message(envelope(f"{n}@c.test"), CONTENT))
    assert store.reads == reads


def test_a_report_that_the_disk_does_not_take_is_not_kept_in_memory_as_well(
    store: CountingStore, clock: SetClock
) -> None:
    queue = Queue(store, retry=POLICY, clock=clock)
    queue.add_message(envelope("b@b.test"), CONTENT)
    store.fails.add("flush")
    report = settle(queue, take(queue)["b.test"], FAILED)
    assert report is not None
    queue.get_content(report.id)
    assert store.reads == 1


def test_memory_is_kept_until_each_destination_had_its_first_attempt(
    store: CountingStore, clock: SetClock
) -> None:
    queue = Queue(store, retry=POLICY, resident_bytes=len(CONTENT), clock=clock)
    message_id = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    taken = take(queue)
    settle(queue, taken["b.test"], DEFERRED)
    queue.get_content(message_id)
    assert store.reads == 0
    settle(queue, taken["c.test"], DEFERRED)
    queue.get_content(message_id)
    assert store.reads == 1


def test_mail_put_off_for_a_dead_host_gives_its_memory_back(
    store: CountingStore, clock: SetClock
) -> None:
    queue = Queue(store, retry=POLICY, resident_bytes=len(CONTENT), clock=clock)
    put_off = queue.add_message(envelope("b@b.test"), CONTENT)
    queue.set_waiting(take(queue)["b.test"], clock.now + 30)
    fresh = queue.add_message(envelope("c@c.test"), CONTENT)
    queue.get_content(fresh)
    assert store.reads == 0
    assert b"".join(queue.get_content(put_off)) == CONTENT
    assert store.reads == 1


def test_what_an_attempt_reads_back_stays_in_memory_until_it_ends(
    store: CountingStore, clock: SetClock
) -> None:
    Queue(store, clock=clock).add_message(envelope("b@b.test"), CONTENT)
    queue = Queue(store, retry=POLICY, resident_bytes=len(CONTENT), clock=clock)
    for told in (DEFERRED, DELIVERED):
        delivery = take(queue)["b.test"]
        store.reads = 0
        assert queue.get_message(delivery.message_id, keeps_content=True).id == delivery.message_id
        assert store.reads == 1
        store.fails |= {"message", "content"}
        assert b"".join(queue.get_content(delivery.message_id)) == CONTENT
        queue.note_in_doubt(delivery, Host("mx.test", "192.0.2.1"))
        assert queue.settle(delivery, {0: told}).message is not None
        store.fails.clear()
        clock.now += 10_000
    # Its memory is free again.
    fresh = queue.add_message(envelope("b@b.test"), CONTENT)
    store.reads = 0
    assert b"".join(queue.get_content(fresh)) == CONTENT
    assert store.reads == 0


def test_reading_back_twice_takes_memory_once(store: CountingStore, clock: SetClock) -> None:
    Queue(store, clock=clock).add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    queue = Queue(store, retry=POLICY, resident_bytes=2 * len(CONTENT), clock=clock)
    taken = take(queue)
    inside: list[int] = []

    class Twice(CountingStore):
        """Whose reader is overtaken by another one for the other part."""

        def content(self, message_id: int) -> Iterator[bytes]:
            if not inside:
                inside.append(message_id)
                queue.get_message(message_id, keeps_content=True)
            return super().content(message_id)

    store.__class__ = Twice
    queue.get_message(taken["b.test"].message_id, keeps_content=True)
    for delivery in taken.values():
        settle(queue, delivery, DELIVERED)
    store.reads = 0
    for n in range(2):
        queue.get_content(queue.add_message(envelope(f"{n}@b.test"), CONTENT))
    assert store.reads == 0


def test_content_that_cannot_be_read_back_does_not_hide_its_message(
    store: CountingStore, clock: SetClock
) -> None:
    Queue(store, clock=clock).add_message(envelope("b@b.test"), CONTENT)
    queue = Queue(store, retry=POLICY, clock=clock)
    delivery = take(queue)["b.test"]
    store.fails.add("content")
    assert queue.get_message(delivery.message_id, keeps_content=True).id == delivery.message_id
    with pytest.raises(StoreFailed):
        queue.get_content(delivery.message_id)


@pytest.mark.parametrize("budget", [0, len(CONTENT) - 1])
def test_what_finds_no_room_is_read_when_it_goes_out(
    store: CountingStore, clock: SetClock, budget: int
) -> None:
    Queue(store, clock=clock).add_message(envelope("b@b.test"), CONTENT)
    queue = Queue(store, retry=POLICY, resident_bytes=budget, clock=clock)
    queue.get_message(take(queue)["b.test"].message_id, keeps_content=True)
    assert store.reads == 0


def test_done_gives_the_memory_back(store: CountingStore, clock: SetClock) -> None:
    queue = Queue(store, resident_bytes=len(CONTENT), clock=clock)
    queue.done(queue.add_message(envelope("b@b.test"), CONTENT))
    queue.get_content(queue.add_message(envelope("b@b.test"), CONTENT))
    assert store.reads == 0


# -- the usual queue ------------------------------------------------------------------------------


def test_the_usual_queue_is_a_spool_in_a_directory(tmp_path: Path) -> None:
    queue = Queue.open(tmp_path / "spool", hostname="gw.test")
    message_id = queue.add_message(envelope("b@b.test"), CONTENT)
    with pytest.raises(StoreFailed, match="in use"):
        Queue.open(tmp_path / "spool")
    queue.close()
    queue = Queue.open(tmp_path / "spool")
    assert queue.get_envelope(message_id) == envelope("b@b.test")
    assert b"".join(queue.get_content(message_id)) == CONTENT
    settle(queue, take(queue)["b.test"], DELIVERED)
    queue.close()
    queue = Queue.open(tmp_path / "spool")
    assert len(queue) == 0
    queue.close()
