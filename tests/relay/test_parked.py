"""What waits for the same thing: in which order it is woken, and that it does not pile up."""

from collections import deque
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from gwrelay.queue.delivery import Delivery
from gwrelay.relay.parked import Parked


def delivery(
    number: int, *, sender: int = 0, attempts: int = 0, arrived_at: float = 0.0
) -> Delivery:
    parked = Delivery(number, "b.test", (0,), arrived_at, False, attempts, sender=sender)
    parked.entry = number
    return parked


def everything_waits(entry: int) -> bool:
    return True


def woken(parked: Parked, limit: int = 1000, gone: frozenset[int] = frozenset()) -> list[int]:
    found: list[int] = []

    def hasten(entry: int, message_id: int, part: int) -> bool:
        if entry in gone:
            return False
        found.append(message_id)
        return True

    assert parked.wake(limit, hasten) == len(found)
    return found


def test_the_oldest_is_woken_first() -> None:
    parked = Parked()
    for n in (5, 3, 9, 1):
        parked.add(delivery(n, arrived_at=n), everything_waits)
    assert len(parked) == 4
    assert woken(parked, 2) == [1, 3]
    assert woken(parked) == [5, 9]
    assert not parked


def test_senders_take_turns() -> None:
    parked = Parked()
    for n in range(100):
        parked.add(delivery(n, sender=1, arrived_at=n), everything_waits)
    for n in range(500, 503):
        parked.add(delivery(n, sender=2, arrived_at=n), everything_waits)
    assert woken(parked, 6) == [0, 500, 1, 501, 2, 502]


def test_a_senders_first_attempts_are_not_behind_its_further_ones() -> None:
    parked = Parked()
    for n in range(100):
        parked.add(delivery(n, attempts=1, arrived_at=n), everything_waits)
    parked.add(delivery(500, arrived_at=500.0), everything_waits)
    assert woken(parked, 2) == [0, 500]


def test_those_that_do_not_wait_any_more_take_nobodys_place() -> None:
    parked = Parked()
    for n in range(10):
        parked.add(delivery(n, sender=n % 2, arrived_at=n), everything_waits)
    gone = frozenset((0, 1, 2, 4, 5, 6))
    assert woken(parked, 2, gone) == [8, 3]
    assert woken(parked, 9, gone) == [7, 9]
    assert not parked


def test_who_is_younger_than_one_of_his_sender_is_behind_it() -> None:
    parked = Parked()
    parked.add(delivery(5, arrived_at=5.0), everything_waits)
    assert parked.has_older(delivery(6, arrived_at=6.0))
    assert not parked.has_older(delivery(5, arrived_at=5.0))
    assert not parked.has_older(delivery(6, arrived_at=6.0, sender=3))
    assert not parked.has_older(delivery(6, arrived_at=6.0, attempts=1))


def test_those_parked_again_and_again_do_not_pile_up() -> None:
    parked = Parked()
    entries = count(1)
    waiting: set[int] = set()
    sleepers = [delivery(n) for n in range(100)]
    for _ in range(500):
        for sleeper in sleepers:
            waiting.discard(sleeper.entry)
            sleeper.entry = next(entries)
            waiting.add(sleeper.entry)
            parked.add(sleeper, waiting.__contains__)
    assert len(parked) < 2500, "of 50,000"
    asked: list[int] = []
    parked.wake(1000, lambda entry, message_id, part: asked.append(entry) or entry in waiting)
    assert set(asked) >= waiting


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 50)), max_size=60),
    st.integers(1, 7),
)
def test_all_are_woken_once_each_line_in_its_order_and_lines_in_turn(
    about: list[tuple[int, int, int]], step: int
) -> None:
    parked = Parked()
    lines: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for n, (sender, attempts, arrived_at) in enumerate(about):
        one = delivery(n, sender=sender, attempts=attempts, arrived_at=arrived_at)
        parked.add(one, everything_waits)
        lines.setdefault((sender, attempts), []).append((arrived_at, n))
    turns = deque(deque(sorted(line)) for line in lines.values())
    expected = []
    while turns:
        line = turns.popleft()
        expected.append(line.popleft()[1])
        if line:
            turns.append(line)
    found: list[int] = []
    while parked:
        found += woken(parked, step)
    assert found == expected
