"""Content kept in memory for the first attempt, within a budget."""

from hypothesis import given
from hypothesis import strategies as st

from gwrelay.message.envelope import Message
from gwrelay.queue.resident import Resident
from gwrelay.queue.store import Open, State
from support.mail import envelope

STATE = State(0.0, False, (Open("b.test", (0,), 0, 0.0),))


def message(message_id: int) -> Message:
    return Message(message_id, 0.0, 0, envelope("b@b.test"))


def test_what_is_kept_is_given_back_until_it_is_dropped() -> None:
    resident = Resident(10)
    resident.keep(message(1), b"x" * 10, STATE)
    assert resident.get(1) == (message(1), b"x" * 10, STATE)
    resident.drop(1)
    assert resident.get(1) is None


def test_a_newer_state_takes_the_place_of_the_older() -> None:
    resident = Resident(10)
    resident.keep(message(1), b"x", STATE)
    newer = STATE._replace(open=())
    resident.amend(1, newer)
    assert resident.get(1) == (message(1), b"x", newer)
    resident.amend(2, newer)
    assert resident.get(2) is None


def test_what_does_not_fit_is_not_kept_and_what_does_still_is() -> None:
    resident = Resident(10)
    resident.keep(message(1), b"x" * 6, STATE)
    resident.keep(message(2), b"x" * 5, STATE)
    resident.keep(message(3), b"x" * 4, STATE)
    assert [n for n in (1, 2, 3) if resident.get(n) is not None] == [1, 3]


def test_an_empty_content_is_resident_too() -> None:
    resident = Resident(0)
    resident.keep(message(1), b"", STATE)
    assert resident.get(1) == (message(1), b"", STATE)


@given(st.lists(st.one_of(st.integers(0, 40), st.none()), max_size=60))
def test_the_budget_is_given_back_exactly(steps: list[int | None]) -> None:
    """Numbers are sizes to keep; None drops the oldest, and again what is gone already."""
    resident, kept = Resident(100), {}
    for n, size in enumerate(steps):
        if size is not None:
            resident.keep(message(n), b"x" * size, STATE)
            if size <= 100 - sum(kept.values()):
                kept[n] = size
        elif kept:
            oldest = min(kept)
            del kept[oldest]
            resident.drop(oldest)
            resident.drop(oldest)
        assert {m for m in range(n + 1) if resident.get(m) is not None} == set(kept)
    for m in list(kept):
        resident.drop(m)
    resident.keep(message(1000), b"x" * 100, STATE)
    assert resident.get(1000) is not None
