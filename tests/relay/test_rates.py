"""Rates: never more than they say, in any time; and no less when there is enough to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.relay.rates import BURST_S, Rate


def test_the_first_may_go_at_once_and_the_next_after_an_interval() -> None:
    rate = Rate(0.5)
    assert rate.wait_s(100.0) == 0.0
    rate.take(100.0)
    assert rate.wait_s(100.0) == pytest.approx(2.0 - BURST_S)
    assert rate.wait_s(102.0) == 0.0


def test_a_rest_saves_nothing_up() -> None:
    rate = Rate(1.0)
    rate.take(0.0)
    rate.take(1000.0)
    assert rate.wait_s(1000.0) == pytest.approx(1.0 - BURST_S)


def test_what_did_not_go_does_not_count() -> None:
    rate = Rate(1.0)
    rate.take(0.0, 3)
    rate.give_back(3)
    assert rate.wait_s(0.0) == 0.0


def test_a_clock_that_is_set_back_makes_nobody_wait_for_longer() -> None:
    rate = Rate(1.0)
    rate.take(100_000.0)
    rate.wait_s(100_000.0)
    assert rate.wait_s(500.0) == pytest.approx(1.0 - BURST_S)
    assert rate.wait_s(501.0) == 0.0


@given(
    st.floats(0.01, 10_000.0),
    st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 3)), min_size=1, max_size=200),
)
def test_never_more_than_the_rate_in_any_time(per_s: float, steps: list[tuple[float, int]]) -> None:
    """Steps are in intervals.  More than one at once are paid for afterwards."""
    rate = Rate(per_s)
    now = 1000.0
    went: list[tuple[float, int]] = []
    for pause, count in steps:
        now += pause / per_s
        if rate.wait_s(now) == 0.0:
            rate.take(now, count)
            went.append((now, count))
    for first in range(len(went)):
        gone = 0
        for at, count in went[first:]:
            # What goes last may be several at once.
            allowed = 1 + (at - went[first][0] + BURST_S) * per_s
            assert gone < allowed + 1e-6
            gone += count


@given(st.floats(0.1, 1000.0))
def test_who_always_waits_as_long_as_it_says_gets_all_of_it(per_s: float) -> None:
    rate = Rate(per_s)
    now, went = 0.0, 0
    while now < 100 / per_s:
        wait_s = rate.wait_s(now)
        if wait_s == 0.0:
            rate.take(now)
            went += 1
        else:
            now += max(wait_s, 1e-9)
    assert went >= 100
