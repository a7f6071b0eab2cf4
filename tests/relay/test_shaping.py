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


def test_a_site_out_of_reach_gets_one_probe() -> None:
    assert shaping.after_no_connection() == 1
