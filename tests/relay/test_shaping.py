"""How many sessions a site may have: a table."""

import pytest

from gwrelay.relay import shaping


@pytest.mark.parametrize(
    ("window", "limit", "after"), [(1, 20, 2), (19, 20, 20), (20, 20, 20), (1, 1, 1), (25, 20, 20)]
)
def test_a_success_opens_the_window_by_one_up_to_the_limit(
    window: int, limit: int, after: int
) -> None:
    assert shaping.after_success(window, limit) == after


@pytest.mark.parametrize(("sessions", "after"), [(0, 1), (1, 1), (7, 7)])
def test_a_refused_session_leaves_those_that_go_on_or_one_probe(sessions: int, after: int) -> None:
    assert shaping.after_no_connection(sessions) == after
