"""The self-check of a Queue: each kind of fault is found, told, counted and put right; and what
only looks like one is none."""

import struct
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace

import pytest

from gwrelay.errors import StoreFailed
from gwrelay.queue import selfcheck, violations
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.standing import HELD, WAITING
from gwrelay.queue.store import NewMessage
from gwrelay.queue.violations import Violations
from support.mail import CONTENT, DEFERRED, DELIVERED, FAILED, envelope
from support.table_resolver import SetClock

POLICY = RetryPolicy((600,), lifetime_s=10_000, jitter=0.0)


class Stopping:
    """Given to run() in place of an event: its waits, and when it is set."""

    def __init__(self, waits: int) -> None:
        self.asked: list[float] = []
        self._waits = waits

    def wait(self, timeout: float) -> bool:
        self.asked.append(timeout)
        return len(self.asked) > self._waits


class HookedStore(MemoryStore):
    """Calls `accepted` when a message is in the store and its writer does not know yet, and
    `flushing` before what was written is in its lists; each once."""

    accepted: Callable[[], None] | None = None
    flushing: Callable[[], None] | None = None
    fails = False

    def ids(self) -> Iterator[list[int]]:
        """One by one, those that come meanwhile too."""
        last = -1
        while some := sorted(n for n in self._states if n > last)[:1]:
            [last] = some
            yield some

    def accept(self, new: NewMessage) -> None:
        super().accept(new)
        accepted, self.accepted = self.accepted, None
        if accepted is not None:
            accepted()

    def flush(self) -> None:
        if self.fails:
            raise StoreFailed("the disk fails")
        flushing, self.flushing = self.flushing, None
        if flushing is not None:
            flushing()


@pytest.fixture
def store() -> HookedStore:
    return HookedStore()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def queue(store: HookedStore, clock: SetClock) -> Queue:
    return Queue(store, retry=POLICY, clock=clock)


def add(queue: Queue, *recipients: str) -> int:
    return queue.add_message(envelope(*(recipients or ("u@b.test", "u@c.test"))), CONTENT)


def lose_entry(queue: Queue, message_id: int) -> None:
    """Of the first part: as a bug would."""
    schedule = queue._standing.schedule
    for line in (schedule._first, schedule._heap):
        for packed in list(line):
            if packed[16:] == struct.pack(">QI", message_id, 0):
                line.remove(packed)


def check(queue: Queue) -> int:
    """One round; how many violations it found."""
    before = queue.violations.count
    for _ in queue.selfcheck.round():
        pass
    return queue.violations.count - before


def test_nothing_is_found_where_nothing_is_wrong(queue: Queue, clock: SetClock) -> None:
    waits, held, relaying = add(queue), add(queue), add(queue, "u@b.test")
    for delivery in queue.get_waiting(2):
        queue.settle(delivery, dict.fromkeys(delivery.recipients, DEFERRED))
    queue.orders.hold(held, "looks odd", {1})
    clock.advance(1)
    assert {d.message_id for d in queue.get_waiting()} == {held, relaying}
    queue.orders.drop(waits, {0})
    assert queue.counts == (1, 2, 1)
    assert check(queue) == 0


def test_a_part_that_lost_its_entry_is_filed_again(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    message_id = add(queue)
    lose_entry(queue, message_id)
    changes: list[int] = []
    queue.on_change = lambda: changes.append(1)
    assert check(queue) == 1
    [line] = caplog.messages
    assert line.endswith(
        ", recipient 0: for b.test, waits, but has no entry in the schedule; filed again"
    )
    assert line.startswith("self-check: message ")
    assert caplog.records[0].levelname == "ERROR"
    assert changes
    assert check(queue) == 0
    assert [(d.message_id, d.part) for d in queue.get_waiting()] == [
        (message_id, 1),
        (message_id, 0),
    ]
    assert queue.counts == (0, 2, 0)


def test_what_lost_its_entry_and_its_count_has_both_again(queue: Queue) -> None:
    message_id = add(queue)
    lose_entry(queue, message_id)
    queue._standing.waiting -= 1
    assert check(queue) == 2
    assert queue.counts == (2, 0, 0)
    assert check(queue) == 0


def test_a_message_that_was_never_filed_is_filed(
    queue: Queue, store: HookedStore, clock: SetClock
) -> None:
    message_id = add(Queue(store, retry=POLICY, clock=clock), "u@b.test")
    assert check(queue) == 2
    assert [d.message_id for d in queue.get_waiting()] == [message_id]
    assert queue.counts == (0, 1, 0)
    assert check(queue) == 0


@pytest.mark.parametrize("more", [1, -1, 5])
def test_a_counter_that_is_wrong_is_told_and_counted_anew(
    queue: Queue, more: int, caplog: pytest.LogCaptureFixture
) -> None:
    add(queue)
    queue._standing.waiting += more
    assert check(queue) == 1
    assert f"{2 + more} deliveries are said to wait, and 2 do; counted again" in caplog.text
    assert queue.counts == (2, 0, 0)
    assert check(queue) == 0


def test_a_second_entry_is_told_and_does_not_deliver_twice(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    message_id = add(queue, "u@b.test")
    queue._standing.schedule.add(1.0, message_id, 0)
    assert check(queue) == 1
    assert "1 deliveries wait, with 2 entries in the schedule" in caplog.text
    assert check(queue) == 0
    [delivery] = queue.get_waiting()
    assert queue.counts == (0, 1, 0)
    assert "it was due though it is relaying; passed over" in caplog.text
    queue.settle(delivery, {0: DELIVERED})
    assert queue.violations.count == 2
    assert (len(queue), queue.get_waiting()) == (0, [])


def test_an_entry_of_what_is_being_relayed_or_held_is_taken_out(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    relaying = add(queue, "u@b.test")
    [delivery] = queue.get_waiting()
    held = add(queue, "u@c.test")
    queue.orders.hold(held, "looks odd")
    for message_id in (relaying, held):
        queue._standing.schedule.add(1.0, message_id, 0)
    assert check(queue) == 2
    assert "is relaying, and waits as well; waits no more" in caplog.text
    assert "is held, and waits as well; waits no more" in caplog.text
    assert queue.get_waiting() == []
    assert queue.violations.count == 2
    queue.settle(delivery, {0: DELIVERED})
    assert check(queue) == 0


def test_what_is_over_is_relayed_and_held_no_more(
    queue: Queue, store: HookedStore, caplog: pytest.LogCaptureFixture
) -> None:
    relaying, held = add(queue, "u@b.test"), add(queue, "u@c.test")
    queue.orders.hold(held, "looks odd")
    assert len(queue.get_waiting()) == 1
    for message_id in (relaying, held):
        store.settle(message_id, None, None)
        queue._resident.drop(message_id)
    assert check(queue) == 2
    assert "recipient 0: is relaying, and over; forgotten" in caplog.text
    assert "recipient 0: is held, and over; forgotten" in caplog.text
    assert queue.counts == (0, 0, 0)
    assert check(queue) == 0


def test_a_hold_that_the_log_does_not_know_ends(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing would be named as its blocker."""
    message_id = add(queue, "u@b.test")
    queue.orders.hold(message_id, "looks odd")
    state = queue._state(message_id)
    queue._write(message_id, state._replace(open=(state.open[0]._replace(held=""),)))
    assert check(queue) == 1
    assert "is held, but not in the log; waits again" in caplog.text
    assert [part.word for part in queue.parts(message_id)] == [WAITING]
    assert check(queue) == 0


def test_a_hold_that_the_log_alone_knows_holds(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    message_id = add(queue, "u@b.test")
    state = queue._state(message_id)
    queue._write(message_id, state._replace(open=(state.open[0]._replace(held="odd"),)))
    assert check(queue) == 1
    assert "waits, but is on hold in the log; held" in caplog.text
    assert [part.word for part in queue.parts(message_id)] == [HELD]
    assert check(queue) == 0


# -- what only looks wrong ---------------------------------------------------------------------


def test_a_message_that_is_just_being_accepted_is_no_violation(
    queue: Queue, store: HookedStore
) -> None:
    """In the store already, and not in the schedule yet: nobody finds it, nor an order."""
    found: list[int] = []
    draft = queue.draft()

    def look() -> None:
        found.append(check(queue))
        found.append(len(queue.orders.hold(draft.id, "looks odd").parts))
        found.append(len(queue.parts(draft.id)))

    store.accepted = look
    draft.accept(envelope("u@b.test"), CONTENT)
    assert found == [0, 0, 0]
    assert check(queue) == 0
    assert len(queue.get_waiting()) == 1


def test_a_report_that_waits_for_the_disk_is_no_violation(queue: Queue, store: HookedStore) -> None:
    found: list[int] = []
    add(queue, "u@b.test")
    [delivery] = queue.get_waiting()
    store.flushing = lambda: found.append(check(queue))
    settled = queue.settle(delivery, {0: FAILED})
    assert settled.report is not None
    assert found == [0]
    assert check(queue) == 0
    assert [d.message_id for d in queue.get_waiting()] == [settled.report.id]


def test_what_comes_ends_and_changes_in_the_middle_of_a_round_is_no_violation(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "_MESSAGES_AT_ONCE", 1)
    first, early, second = add(queue), queue.draft(), add(queue)
    steps = queue.selfcheck.round()
    for n, _ in enumerate(steps):
        if n == 1:  # the first message has been looked at, and the second has not
            early.accept(envelope("u@b.test", "u@d.test"), CONTENT)
            queue.orders.drop(first, {0})
            queue.orders.drop(second)
            add(queue)
    assert n > 1
    assert queue.violations.count == 0
    assert queue.counts.waiting == 5


def test_what_looked_wrong_and_is_over_a_moment_later_is_no_violation(queue: Queue) -> None:
    over, late = add(queue, "u@b.test"), add(queue, "u@b.test")
    lose_entry(queue, over)
    lose_entry(queue, late)
    steps = queue.selfcheck.round()
    assert next(steps) == 1.0
    queue.orders.drop(over)
    queue._standing._over -= 1  # there was no entry to be passed over
    queue._standing.schedule.add(5.0, late, 0)
    assert list(steps) == [0.0]
    assert queue.violations.count == 0


def test_while_the_disk_refuses_what_it_was_given_nothing_is_counted(
    queue: Queue, store: HookedStore
) -> None:
    """A report that is not in the log yet waits, and is in no list."""
    add(queue, "u@b.test")
    queue._standing.waiting += 1
    store.fails = True
    assert check(queue) == 0
    store.fails = False
    assert check(queue) == 1


# -- going round -------------------------------------------------------------------------------


def test_a_round_takes_a_small_share_of_the_time(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = count()
    ticking = SimpleNamespace(perf_counter=lambda: 0.002 * next(moments))
    monkeypatch.setattr(selfcheck, "time", ticking)
    add(queue)
    stop = Stopping(4)
    queue.selfcheck.run(stop)
    assert stop.asked == [300.0, 0.5, 0.5, 300.0, 0.5, 300.0]


def test_a_round_that_is_stopped_half_way_leaves_nothing_behind(queue: Queue) -> None:
    add(queue)
    queue.selfcheck.run(Stopping(1))
    assert queue.selfcheck.open_count is None
    assert queue._standing.schedule._walk is None


def test_there_is_no_round_before_all_is_loaded(store: HookedStore, clock: SetClock) -> None:
    add(Queue(store, retry=POLICY, clock=clock))
    queue = Queue(store, retry=POLICY, clock=clock, load_later=True)
    stop = Stopping(2)
    queue.selfcheck.run(stop)
    assert stop.asked == [300.0] * 3


def test_a_bug_ends_the_round_and_not_the_rounds(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue._store, "ids", lambda: 1 / 0)
    stop = Stopping(4)
    queue.selfcheck.run(stop)
    assert stop.asked.count(300.0) > 1
    assert "ZeroDivisionError" in caplog.text


def test_the_log_has_a_few_lines_and_the_count_has_all(caplog: pytest.LogCaptureFixture) -> None:
    clock = SetClock()
    found = Violations(clock)
    for n in range(100):
        found.note_part(n, 0, "is wrong", "put right")
    assert found.count == 100
    assert len(caplog.messages) == violations._LINES + 1
    assert "only counted" in caplog.messages[-1]
    clock.advance(61)
    found.note("it is wrong again", "put right")
    assert caplog.messages[-1] == "self-check: it is wrong again; put right"
