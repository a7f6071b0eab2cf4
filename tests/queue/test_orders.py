"""What an operator orders of messages: which parts it changes, and that the log has it."""

from pathlib import Path

import pytest

from gwrelay.errors import StoreFailed
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.standing import HELD, RELAYING, WAITING
from gwrelay.queue.store import NewMessage, State
from support.mail import CONTENT, DEFERRED, DELIVERED, envelope, loaded
from support.table_resolver import SetClock

POLICY = RetryPolicy((600,), lifetime_s=10_000, jitter=0.0)


class FailingStore(MemoryStore):
    fails = False

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        if self.fails:
            raise StoreFailed("the disk fails")
        super().settle(message_id, state, report)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def queue(store: FailingStore, clock: SetClock) -> Queue:
    return Queue(store, retry=POLICY, clock=clock)


def add(queue: Queue) -> int:
    """Three parts: 0 for b.test, with two recipients, 1 for c.test, 3 for d.test."""
    return queue.add_message(envelope("u@b.test", "u@c.test", "v@b.test", "u@d.test"), CONTENT)


def add_deferred(queue: Queue) -> int:
    message_id = add(queue)
    for delivery in queue.get_waiting():
        queue.settle(delivery, dict.fromkeys(delivery.recipients, DEFERRED))
    return message_id


def words(queue: Queue, message_id: int) -> dict[int, str]:
    return {part.open.recipients[0]: part.word for part in queue.parts(message_id)}


def test_a_held_part_is_not_tried_and_the_others_are(queue: Queue, clock: SetClock) -> None:
    message_id = add_deferred(queue)
    obeyed = queue.orders.hold(message_id, "looks odd", {0})
    assert [part.recipients for part in obeyed.parts] == [(0, 2)]
    assert words(queue, message_id) == {0: HELD, 1: WAITING, 3: WAITING}
    assert queue.counts == (2, 0, 1)
    clock.advance(700)
    assert sorted(d.destination for d in queue.get_waiting()) == ["c.test", "d.test"]
    assert queue.parts(message_id)[0].open.held == "looks odd"


def test_what_is_held_is_held_after_a_restart_and_released_once(
    tmp_path: Path, clock: SetClock
) -> None:
    queue = Queue(SpoolStore(open_spool(tmp_path)), retry=POLICY, clock=clock)
    message_id = add(queue)
    queue.orders.hold(message_id, "looks odd")
    queue.close()
    queue = Queue(SpoolStore(open_spool(tmp_path)), retry=POLICY, clock=clock)
    assert queue.get_waiting() == []
    assert len(queue.orders.release(message_id, {1, 3}).parts) == 2
    assert [d.destination for d in queue.get_waiting()] == ["c.test", "d.test"]
    assert queue.get_held() == [message_id]
    queue.close()


def test_a_part_held_and_released_before_it_was_due_comes_once(
    queue: Queue, clock: SetClock
) -> None:
    message_id = add_deferred(queue)
    for _ in range(3):
        queue.orders.hold(message_id, "looks odd")
        assert queue.has_waiting() is False
        queue.orders.release(message_id)
    due = queue.get_waiting()
    assert len(due) == 3
    clock.advance(5000)
    assert queue.get_waiting() == []
    for delivery in due:
        queue.settle(delivery, dict.fromkeys(delivery.recipients, DELIVERED))
    assert len(queue) == 0


def test_a_retry_is_due_now_and_stays_so_after_a_restart(
    queue: Queue, store: FailingStore, clock: SetClock
) -> None:
    message_id = add_deferred(queue)
    changes = []
    queue.on_change = lambda: changes.append(queue.next_due_at)
    assert len(queue.orders.retry(message_id, {1}).parts) == 1
    assert changes == [clock.now]
    [delivery] = Queue(store, retry=POLICY, clock=clock).get_waiting()
    assert (delivery.destination, delivery.attempts) == ("c.test", 1)
    assert [d.destination for d in queue.get_waiting()] == ["c.test"]
    clock.advance(700)
    assert sorted(d.destination for d in queue.get_waiting()) == ["b.test", "d.test"]


def test_one_that_sleeps_for_a_dead_site_has_its_retry_and_is_not_woken_twice(
    queue: Queue, clock: SetClock
) -> None:
    message_id = queue.add_message(envelope("u@b.test"), CONTENT)
    [delivery] = queue.get_waiting()
    queue.set_waiting(delivery, clock.now + 3600)
    assert queue.get_waiting() == []
    queue.orders.retry(message_id)
    assert not queue.hasten(delivery.entry, message_id, 0)
    assert len(queue.get_waiting()) == 1
    clock.advance(4000)
    assert queue.get_waiting() == []


def test_a_retry_of_what_the_log_has_due_needs_no_disk(
    queue: Queue, store: FailingStore, clock: SetClock
) -> None:
    message_id = add(queue)
    [_, other, _] = queue.get_waiting()
    queue.set_waiting(other, clock.now + 3600)
    store.fails = True
    assert len(queue.orders.retry(message_id, {1}).parts) == 1
    assert [d.destination for d in queue.get_waiting()] == ["c.test"]
    assert len(Queue(store, retry=POLICY, clock=clock).get_waiting()) == 3


def test_what_is_dropped_is_gone_with_its_message_when_nothing_else_is_open(
    queue: Queue, store: FailingStore, clock: SetClock
) -> None:
    message_id = add(queue)
    queue.orders.hold(message_id, "looks odd", {3})
    assert len(queue.orders.drop(message_id, {1, 3}).parts) == 2
    assert words(queue, message_id) == {0: WAITING}
    assert [part.destination for _, state in loaded(store) for part in state.open] == ["b.test"]
    assert len(queue.orders.drop(message_id).parts) == 1
    assert loaded(store) == []
    assert (len(queue), queue.get_relayed(), queue.counts) == (0, 1, (0, 0, 0))
    assert queue.get_waiting() == []
    assert queue.orders.drop(message_id) == ((), 0)


def test_what_is_being_relayed_is_left_alone_and_counted(queue: Queue) -> None:
    message_id = add(queue)
    [taken] = queue.get_waiting(1)
    assert words(queue, message_id)[taken.part] == RELAYING
    for obeyed in (
        queue.orders.retry(message_id),
        queue.orders.hold(message_id, "looks odd"),
        queue.orders.drop(message_id),
    ):
        assert (len(obeyed.parts), obeyed.busy) == (2, 1)
    queue.settle(taken, dict.fromkeys(taken.recipients, DELIVERED))
    assert len(queue) == 0


def test_what_the_log_refuses_has_not_happened(
    queue: Queue, store: FailingStore, clock: SetClock
) -> None:
    message_id = add_deferred(queue)
    store.fails = True
    for order in (queue.orders.drop, queue.orders.retry):
        with pytest.raises(StoreFailed):
            order(message_id)
    with pytest.raises(StoreFailed):
        queue.orders.hold(message_id, "looks odd")
    assert set(words(queue, message_id).values()) == {WAITING}
    assert queue.get_waiting() == []
    clock.advance(600)
    assert len(queue.get_waiting()) == 3


def test_a_message_that_is_gone_has_nothing_to_order(queue: Queue) -> None:
    assert queue.orders.hold(77, "looks odd") == ((), 0)
    assert queue.parts(77) == []


def test_what_is_not_loaded_yet_is_ordered_all_the_same(
    store: FailingStore, clock: SetClock
) -> None:
    message_id = add(Queue(store, retry=POLICY, clock=clock))
    queue = Queue(store, retry=POLICY, clock=clock, load_later=True)
    assert queue.parts(message_id) == []
    queue.orders.hold(message_id, "looks odd", {0})
    assert words(queue, message_id) == {0: HELD, 1: WAITING, 3: WAITING}
    assert len(queue.get_waiting()) == 2


def test_parts_are_in_the_order_of_the_recipients_whichever_ended_first(queue: Queue) -> None:
    message_id = add(queue)
    [first] = queue.get_waiting(1)
    queue.settle(first, dict.fromkeys(first.recipients, DEFERRED))
    assert list(words(queue, message_id)) == [0, 1, 3]
