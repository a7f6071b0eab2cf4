"""Rates: never more than they say, in any time; and no less when there is enough to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.relay.rates import BURST_S, Rate
from support.table_resolver import SetClock


def new_rate(per_s: float, now: float = 100.0) -> tuple[Rate, SetClock]:
    clock = SetClock(now)
    return Rate(per_s, clock), clock


def test_the_first_may_go_at_once_and_the_next_after_an_interval() -> None:
    rate, clock = new_rate(0.5)
    assert rate.go() == 0.0
    assert rate.go() == rate.wait_s() == pytest.approx(2.0 - BURST_S)
    clock.advance(2.0)
    assert rate.wait_s() == 0.0
    assert rate.go() == 0.0


def test_a_rest_saves_nothing_up() -> None:
    rate, clock = new_rate(1.0)
    rate.take(1)
    clock.advance(1000)
    rate.take(1)
    assert rate.wait_s() == pytest.approx(1.0 - BURST_S)


def test_what_did_not_go_does_not_count() -> None:
    rate, _ = new_rate(1.0)
    rate.take(3)
    rate.give_back(3)
    assert rate.wait_s() == 0.0


def test_a_clock_that_is_set_back_makes_nobody_wait_for_longer() -> None:
    rate, clock = new_rate(1.0, 100_000.0)
    rate.take(1)
    clock.now = 500.0
    assert rate.wait_s() == pytest.approx(1.0 - BURST_S)
    clock.now = 501.0
    assert rate.wait_s() == 0.0


@given(
    st.floats(0.01, 10_000.0),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 3)), min_size=1, max_size=200),
)
def test_never_more_than_the_rate_in_any_time(per_s: float, steps: list[tuple[float, int]]) -> None:
    """Steps are in intervals.  More than one at once are paid for afterwards."""
    rate, clock = new_rate(per_s, 1000.0)
    went: list[tuple[float, int]] = []
    for pause, count in steps:
        clock.advance(pause / per_s)
        if rate.go() == 0.0:
            rate.take(count - 1)
            went.append((clock.now, count))
    for first in range(len(went)):
        gone = 0
        for at, count in went[first:]:
            # What goes last may be several at once.
            allowed = 1 + (at - went[first][0] + BURST_S) * per_s
            assert gone < allowed + 1e-6
            gone += count


@given(st.floats(0.1, 1000.0))
def test_who_always_waits_as_long_as_it_says_gets_all_of_it(per_s: float) -> None:
    rate, clock = new_rate(per_s, 0.0)
    went = 0
    while clock.now < 100 / per_s:
        wait_s = rate.go()
        if wait_s == 0.0:
            went += 1
        else:
            clock.advance(max(wait_s, 1e-9))
    assert went >= 100
