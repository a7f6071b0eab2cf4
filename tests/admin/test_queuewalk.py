"""A walk through the queue stands in nobody's way, and says that it goes on."""

from itertools import pairwise

import pytest

from gwrelay.admin import queuewalk
from gwrelay.admin.queuewalk import paced, walk
from gwrelay.admin.selection import Selection, read_selection
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from support.mail import CONTENT, envelope


class Time:
    """In place of the time module; `sleep` is all that takes time, but for what a test does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(self.now)
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(queuewalk, "time", fake)
    return fake


def test_others_have_their_turn_before_ten_milliseconds_are_over(time: Time) -> None:
    for _ in paced(range(100)):
        time.now += 0.001
    assert len(time.slept) >= 15
    turns = [0.0, *time.slept]
    assert max(later - earlier for earlier, later in pairwise(turns)) < 0.01


def test_one_that_takes_long_says_so_now_and_then(time: Time) -> None:
    seen = []
    for one in paced(range(20)):
        time.now += 1.0
        seen.append(one)
    assert [one for one in seen if one is not None] == list(range(20))
    assert 2 <= seen.count(None) <= 4


def test_a_walk_that_finds_nothing_pauses_all_the_same(time: Time) -> None:
    queue = Queue(MemoryStore(), clock=lambda: 1000.0)
    for _ in range(30):
        queue.add_message(envelope("u@b.test"), CONTENT)
    read = queue.get_envelope

    def slow(message_id: int) -> object:
        time.now += 0.004
        return read(message_id)

    queue.get_envelope = slow
    assert list(walk(queue, read_selection(["to:nobody@b.test"]))) == []
    assert len(time.slept) >= 10


def test_messages_that_come_and_go_meanwhile_do_no_harm() -> None:
    queue = Queue(MemoryStore(), clock=lambda: 1000.0)
    ids = [queue.add_message(envelope("u@b.test"), CONTENT) for _ in range(5)]
    found = []
    for one in walk(queue, Selection()):
        found.append(one.message_id)
        queue.done(ids[3])
        queue.add_message(envelope("u@c.test"), CONTENT)
    assert found == [ids[0], ids[1], ids[2], ids[4]]


def test_an_id_that_is_not_there_is_found_without_parts() -> None:
    queue = Queue(MemoryStore(), clock=lambda: 1000.0)
    [found] = walk(queue, Selection(ids=(7,)))
    assert found == (7, [])
