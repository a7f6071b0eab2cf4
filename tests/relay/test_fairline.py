"""The order in which deliveries that wait for one site are taken."""

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.queue.delivery import Delivery
from gwrelay.relay.fairline import FairLine


def delivery(number: int, sender: int = 0, recipients: int = 1, attempts: int = 0) -> Delivery:
    who = tuple(range(recipients))
    return Delivery(number, "b.test", who, 0.0, False, attempts, sender=sender)


def line_of(*deliveries: Delivery) -> FairLine:
    line = FairLine()
    line.extend(deliveries)
    return line


def taken(line: FairLine, count: int) -> list[int]:
    return [line.popleft().message_id for _ in range(count)]


def test_what_one_sender_has_is_taken_in_its_order() -> None:
    line = line_of(*(delivery(n) for n in range(5)))
    assert len(line) == 5
    assert taken(line, 5) == [0, 1, 2, 3, 4]
    assert not line
    with pytest.raises(IndexError):
        line.popleft()


def test_senders_take_turns_however_much_one_of_them_has() -> None:
    line = line_of(*(delivery(n, sender=1) for n in range(1000)))
    line.append(delivery(5000, sender=2))
    line.append(delivery(5001, sender=2))
    assert taken(line, 5) == [0, 5000, 1, 5001, 2]


def test_bounces_take_turns_with_all_others_whoever_counts_as_one_sender() -> None:
    """As with `--fair-by none`: all are of sender 0."""
    line = FairLine()
    for n in range(1000):
        line.append(Delivery(n, "b.test", (0,), 0.0, is_bounce=True))
    line.extend(delivery(n) for n in range(5000, 5003))
    assert taken(line, 7) == [0, 5000, 1, 5001, 2, 5002, 3]
    back = line.popleft()
    line.appendleft(back)
    assert taken(line, 2) == [4, 5]


def test_a_delivery_to_many_takes_as_many_turns_as_transactions() -> None:
    many = [delivery(n, sender=1, recipients=200) for n in range(3)]
    line = line_of(*many, *(delivery(10 + n, sender=2) for n in range(10)))
    assert taken(line, 10) == [10, 11, 12, 0, 13, 14, 15, 16, 1, 17]


def test_who_is_alone_need_not_save() -> None:
    line = line_of(delivery(1, recipients=5000))
    assert taken(line, 1) == [1]


def test_first_attempts_come_before_further_ones_and_do_not_starve_them() -> None:
    line = line_of(*(delivery(n, attempts=1) for n in range(100, 104)))
    line.extend(delivery(n) for n in range(8))
    assert taken(line, 12) == [0, 1, 2, 100, 3, 4, 5, 101, 6, 7, 102, 103]


def test_what_is_put_back_is_the_next_to_be_taken() -> None:
    line = line_of(*(delivery(n, sender=n % 2, recipients=99) for n in range(6)))
    first = line.popleft()
    line.appendleft(first)
    assert line.popleft() is first
    assert len(line) == 5
    assert sorted(d.message_id for d in line) == [1, 2, 3, 4, 5]


def test_cleared_it_is_empty() -> None:
    line = line_of(delivery(1), delivery(2, attempts=1))
    line.clear()
    assert (len(line), list(line)) == (0, [])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 4), st.integers(1, 300), st.integers(0, 2)),
            st.sampled_from(["take", "put back"]),
        ),
        max_size=80,
    )
)
def test_each_is_taken_once_and_those_of_a_sender_in_order(steps: list[object]) -> None:
    line = FairLine()
    waiting: dict[tuple[int, bool], deque[Delivery]] = {}
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            sender, recipients, attempts = step
            one = delivery(number, sender, recipients, attempts)
            line.append(one)
            waiting.setdefault((sender, attempts > 0), deque()).append(one)
        elif line:
            one = line.popleft()
            mine = waiting[one.sender, one.attempts > 0]
            assert mine[0] is one
            if step == "take":
                mine.popleft()
            else:
                line.appendleft(one)
        assert len(line) == sum(map(len, waiting.values()))
        assert Counter(line) == Counter(one for all_ in waiting.values() for one in all_)
