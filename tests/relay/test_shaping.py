"""How many sessions a site may have: the formula, step by step."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.relay.shaping import PATIENCE, Window


def windows(limit: int, initial: int, steps: str) -> Sequence[int]:
    """After each step: "+" a success with the window in use, "-" one with one session in use,
    "t" throttled, "x" every host out of reach, a digit: refused while so many others went on."""
    window = Window(limit, initial)
    found = []
    for step in steps:
        if step == "+":
            window.note_success(window.sessions)
        elif step == "-":
            window.note_success(0)
        elif step == "t":
            window.note_throttled()
        else:
            window.note_refused(0 if step == "x" else int(step))
        found.append(window.sessions)
    return found


@pytest.mark.parametrize(
    ("limit", "initial", "steps", "after"),
    [
        (8, 5, "++++", [6, 7, 8, 8]),
        (3, 5, "+", [3]),
        (1, 1, "+", [1]),
        # What is not in use teaches nothing.
        (20, 5, "---+", [5, 5, 5, 6]),
        # By one until the first no, by one for each window of successes after it.
        (20, 3, "+t+++++++", [4, 3, 3, 3, 4, 4, 4, 4, 5]),
        (20, 2, "tttt", [1, 1, 1, 1]),
        (20, 1, "t+++", [1, 2, 2, 3]),
        # Dead: one probe, then back to where it was by one each, and on more slowly.
        (20, 5, "x+++++++", [1, 2, 3, 4, 5, 6, 7, 8]),
        (20, 4, "tx++++++", [3, 1, 2, 3, 3, 3, 4, 4]),
        (20, 4, "txx++", [3, 1, 1, 2, 3]),
        # A session was refused: those that go on are what it takes.
        (20, 9, "2+++", [2, 2, 2, 2]),
        (4, 4, "9", [4]),
    ],
)
def test_the_window_follows_the_formula(
    limit: int, initial: int, steps: str, after: list[int]
) -> None:
    assert windows(limit, initial, steps) == after


def test_a_site_that_refused_a_session_is_asked_for_another_after_many_successes() -> None:
    assert windows(20, 9, "2" + "+" * PATIENCE + "++")[-3:] == [2, 2, 3]


def test_a_death_ends_the_patience() -> None:
    assert windows(20, 9, "2x+++")[-3:] == [2, 2, 3]


@given(st.integers(1, 50), st.integers(1, 50), st.text("+-tx123456789", max_size=300))
def test_the_window_is_never_empty_and_never_above_the_limit(
    limit: int, initial: int, steps: str
) -> None:
    assert all(1 <= sessions <= limit for sessions in windows(limit, initial, steps))
