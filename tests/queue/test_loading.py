"""What a store held at the start comes into the queue in steps, beside all other work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gwrelay.errors import StoreFailed
from gwrelay.queue import loading
from gwrelay.queue.loading import Loading
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.store import State
from support.faulty_files import Rounds
from support.mail import CONTENT, DEFERRED, DELIVERED, HELD, envelope
from support.table_resolver import SetClock


class SteppedStore(MemoryStore):
    """Gives out lists of two; fails before the one a test says, once."""

    def __init__(self) -> None:
        super().__init__()
        self.fails_before = -1

    def load(self) -> Iterator[list[tuple[int, State]]]:
        for n, ids in enumerate(_pairs(sorted(self._states))):
            if n == self.fails_before:
                self.fails_before = -1
                raise StoreFailed("the disk fails")
            yield [(m, self._states[m]) for m in ids if m in self._states]


def _pairs(ids: list[int]) -> list[list[int]]:
    return [ids[at : at + 2] for at in range(0, len(ids), 2)]


class Steps(Rounds):
    """Give it to Queue.load(): so many lists, without waiting."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return super().wait(timeout)


class Ticking:
    """In place of the time module: `monotonic` is what it was set to, and `tick_s` more each time
    it is asked."""

    def __init__(self, tick_s: float) -> None:
        self.now = 0.0
        self.tick_s = tick_s

    def monotonic(self) -> float:
        self.now += self.tick_s
        return self.now


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    """One list is all that is done in one go."""
    time = Ticking(0.1)
    monkeypatch.setattr(loading, "time", time)
    return time


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(clock: SetClock) -> SteppedStore:
    """With seven messages to b.test and c.test that wait."""
    store = SteppedStore()
    queue = Queue(store, clock=clock)
    for _ in range(7):
        queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    return store


def starting(store: MemoryStore, clock: SetClock) -> Queue:
    return Queue(store, clock=clock, load_later=True, hostname="gw.test")


def taken(queue: Queue) -> list[tuple[int, str]]:
    return [(d.message_id, d.destination) for d in queue.get_waiting()]


def both(*ids: int) -> list[tuple[int, str]]:
    return [(n, name) for n in ids for name in ("b.test", "c.test")]


def test_a_queue_is_complete_when_it_is_built(store: SteppedStore, clock: SetClock) -> None:
    queue = Queue(store, clock=clock)
    assert queue.is_loaded
    assert taken(queue) == both(1, 2, 3, 4, 5, 6, 7)


def test_what_is_loaded_is_due_before_the_rest_is_there(
    store: SteppedStore, clock: SetClock
) -> None:
    queue = starting(store, clock)
    assert (queue.is_loaded, len(queue), taken(queue)) == (False, 0, [])
    told = []
    queue.on_change = lambda: told.append(len(queue))
    queue.load(Steps(2))
    assert not queue.is_loaded
    assert told == [4, 8]
    assert taken(queue) == both(1, 2, 3, 4)
    queue.load(Steps(100))
    assert queue.is_loaded
    assert taken(queue) == both(5, 6, 7)
    assert len(queue) == 14


def test_mail_accepted_before_or_while_loading_waits_once(
    store: SteppedStore, clock: SetClock
) -> None:
    """The store gives out what came meanwhile too, and would deliver it twice."""
    queue = starting(store, clock)
    early = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    assert taken(queue) == both(early)
    queue.load(Steps(2))
    late = queue.add_message(envelope("b@b.test", "c@c.test"), CONTENT)
    queue.load(Steps(100))
    assert sorted(taken(queue)) == both(1, 2, 3, 4, 5, 6, 7, late)
    assert len(queue) == 18


def test_what_is_settled_while_loading_does_not_come_back(
    store: SteppedStore, clock: SetClock
) -> None:
    queue = starting(store, clock)
    queue.load(Steps(1))
    for delivery in queue.get_waiting():
        queue.settle(delivery, dict.fromkeys(delivery.recipients, DELIVERED))
    queue.load(Steps(100))
    assert taken(queue) == both(3, 4, 5, 6, 7)
    assert len(queue) == 10


@pytest.mark.parametrize("steps", range(5))
def test_a_message_dropped_while_loading_is_gone(
    store: SteppedStore, clock: SetClock, steps: int
) -> None:
    queue = starting(store, clock)
    queue.load(Steps(steps))
    queue.done(4)
    queue.load(Steps(100))
    assert len(queue) == 12
    assert taken(queue) == both(1, 2, 3, 5, 6, 7)


@pytest.mark.parametrize("steps", range(5))
def test_a_message_released_while_loading_waits_once(
    store: SteppedStore, clock: SetClock, steps: int
) -> None:
    before = Queue(store, clock=clock)
    for delivery in before.get_waiting():
        if (delivery.message_id, delivery.destination) == (4, "b.test"):
            before.settle(delivery, {0: HELD})
    queue = starting(store, clock)
    queue.load(Steps(steps))
    assert queue.release(4) == 1
    queue.load(Steps(100))
    assert queue.get_held() == []
    assert len(queue) == 14
    assert sorted(taken(queue)) == both(1, 2, 3, 4, 5, 6, 7)


def test_nothing_is_lost_when_stopped_while_loading(tmp_path: Path, clock: SetClock) -> None:
    queue = Queue.open(tmp_path / "spool", clock=clock)
    ids = [queue.add_message(envelope("b@b.test"), CONTENT) for _ in range(30)]
    queue.close()
    store = SpoolStore(open_spool(tmp_path / "spool"))
    queue = starting(store, clock)
    queue.load(Steps(0))
    ids.append(queue.add_message(envelope("b@b.test"), CONTENT))
    [delivery] = queue.get_waiting()
    queue.settle(delivery, {0: DEFERRED})
    queue.close()
    clock.advance(3600)
    queue = Queue.open(tmp_path / "spool", clock=clock)
    assert sorted(d.message_id for d in queue.get_waiting()) == ids
    queue.close()


def test_a_disk_that_fails_is_asked_again_later_from_where_it_failed(
    store: SteppedStore, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.fails_before = 2
    queue = starting(store, clock)
    steps = Steps(100)
    queue.load(steps)
    assert "the disk fails" in caplog.text
    assert steps.waits.count(60.0) == 1
    assert taken(queue) == both(1, 2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(("others_s", "lists"), [(0.0, 11), (15 / 1024, 15), (1.0, 21)])
def test_loading_takes_as_long_as_the_others_did_but_neither_little_nor_for_ever(
    time: Ticking, others_s: float, lists: int
) -> None:
    store = MemoryStore()
    queue = Queue(store)
    for _ in range(200):
        queue.add_message(envelope("b@b.test"), CONTENT)
    time.tick_s = 0.0
    filed: list[int] = []

    class Others(Rounds):
        def wait(self, timeout: float | None = None) -> bool:
            filed.append(0)
            time.now += others_s
            return super().wait(timeout)

    def file_list() -> None:
        filed[-1] += 1
        time.now += 1 / 1024

    Loading(store).run(Others(4), file_list)
    # Nothing went before the first.
    assert filed[1:4] == [lists] * 3


def test_it_says_how_much_it_loaded(
    store: SteppedStore, clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    queue = starting(store, clock)
    queue.load(Steps(1))
    assert "stopped loading after 2 messages" in caplog.text
    queue.load(Steps(100))
    assert "loaded 7 messages" in caplog.text
    assert "14 deliveries waiting, 0 messages held" in caplog.text


def test_a_list_may_miss_what_it_likes(store: SteppedStore) -> None:
    loading = Loading(store)
    assert [n for n, _ in loading.next_list()] == [1, 2]
    store.settle(3, None, None)
    store.settle(4, None, None)
    assert loading.next_list() == []
    assert not loading.is_complete
    assert [n for n, _ in loading.next_list()] == [5, 6]


def test_a_clock_that_was_ahead_is_put_right_in_the_store(
    store: SteppedStore, clock: SetClock
) -> None:
    """Else each restart would find the message as young as the last one did."""
    clock.advance(-5000)
    Queue(store, clock=clock)
    state = store.state(7)
    assert state is not None
    assert state.arrived_at == clock.now
