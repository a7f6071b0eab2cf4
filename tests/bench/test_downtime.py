"""Who waited for a host that was down: a destination's history against a stay of a message."""

import pytest

from gwrelay_bench.downtime import Downtimes

#: Down from 10 until delivered at 20, and once more from 30 on; greylisting at 40 is an answer.
HISTORY = [
    {"time": 30.0, "event": "deferred", "stage": "banner", "recipient": "b@D.example"},
    {"time": 5.0, "event": "delivered", "stage": "dot", "recipient": "a@d.example"},
    {"time": 10.0, "event": "deferred", "stage": "connect", "recipient": "b@d.example"},
    {"time": 20.0, "event": "delivered", "stage": "dot", "recipient": "b@d.example"},
    {"time": 40.0, "event": "deferred", "stage": "rcpt", "recipient": "c@d.example"},
    {"time": 1.0, "event": "accepted", "reverse_path": "", "recipients": ["a@d.example"]},
]

STAYS = [
    (6.0, 7.0, False),
    (6.0, 21.0, True),
    (12.0, 13.0, True),
    (12.0, 21.0, True),
    (21.0, 22.0, False),
    (31.0, 32.0, True),
    (35.0, 50.0, True),
    (41.0, 50.0, False),
]


@pytest.mark.parametrize(("since", "until", "expected"), STAYS)
def test_a_stay_that_meets_a_downtime_has_waited(
    since: float, until: float, expected: bool
) -> None:
    assert Downtimes(HISTORY).waited("x@d.example", since, until) is expected


def test_another_destinations_trouble_is_not_ones_own() -> None:
    assert not Downtimes(HISTORY).waited("x@other.example", 0.0, 50.0)
