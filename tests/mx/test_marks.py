"""Bad-host marks: when they start, double, end and are forgotten."""

import random

import pytest

from gwrelay.mx.marks import Marks

A = "192.0.2.1"


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


def marks(jitter: float = 0.0) -> Marks:
    return Marks(30.0, 3600.0, jitter, NoJitter())


def test_an_unknown_address_bears_no_mark() -> None:
    assert marks().until(A, "", 0.0) == 0.0


def test_each_following_failure_doubles_the_mark_to_the_maximum() -> None:
    found = marks()
    now, lengths = 1000.0, []
    for _ in range(9):
        until = found.mark(A, "", now)
        lengths.append(until - now)
        now = until
    assert lengths == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_mark_ends() -> None:
    found = marks()
    assert found.mark(A, "", 1000.0) == 1030.0
    assert found.until(A, "", 1029.9) == 1030.0
    assert found.until(A, "", 1030.0) == 0.0


def test_failures_of_sessions_that_ran_at_once_count_once() -> None:
    found = marks()
    for n in range(20):
        found.mark(A, "", 1000.0 + n / 10)
    assert found.until(A, "", 1002.0) == 1030.0


def test_a_failed_probe_of_a_long_marked_host_lengthens_its_mark() -> None:
    found = marks()
    now = 1000.0
    for _ in range(4):
        now = found.mark(A, "", now)
    assert found.mark(A, "", now - 100.0) == now - 100.0 + 480.0


def test_a_host_dead_again_minutes_after_its_mark_is_in_the_same_trouble() -> None:
    found = marks()
    found.mark(A, "", 1000.0)
    assert found.mark(A, "", 1500.0) == 1560.0


def test_a_host_dead_again_long_after_its_mark_starts_anew() -> None:
    found = marks()
    found.mark(A, "", 1000.0)
    found.forget(1030.0 + 3600.0)
    assert len(found) == 0
    assert found.mark(A, "", 5000.0) == 5030.0


def test_a_long_ended_mark_does_not_double_even_before_it_is_swept() -> None:
    found = marks()
    found.mark(A, "", 1000.0)
    assert found.mark(A, "", 1030.0 + 3600.0) == 1030.0 + 3600.0 + 30.0


def test_success_forgets_mark_and_doubling() -> None:
    found = marks()
    found.mark(A, "", 1000.0)
    found.clear(A, "")
    assert found.until(A, "", 1001.0) == 0.0
    assert found.mark(A, "", 1002.0) == 1032.0


@pytest.mark.parametrize(("address", "source"), [("192.0.2.2", ""), (A, "198.51.100.1")])
def test_a_mark_is_about_one_source_and_one_address(address, source) -> None:
    found = marks()
    found.mark(A, "", 1000.0)
    assert found.until(address, source, 1001.0) == 0.0


def test_jitter_shortens_within_its_share_and_never_lengthens() -> None:
    found = Marks(100.0, 3600.0, 0.15, random.Random(3))
    lengths = [found.mark(f"192.0.2.{n}", "", 0.0) for n in range(250)]
    assert 85.0 <= min(lengths) < 90.0
    assert 95.0 < max(lengths) <= 100.0


def test_jitter_does_not_add_up_over_doublings() -> None:
    class Shortest(random.Random):
        def random(self) -> float:
            return 1.0

    found = Marks(30.0, 3600.0, 0.5, Shortest())
    first = found.mark(A, "", 0.0)
    assert found.mark(A, "", first) - first == 30.0


def test_a_million_hosts_seen_down_once_are_not_remembered_for_ever() -> None:
    found = marks()
    for n in range(20_000):
        found.mark(f"host{n}", "", n * 10.0)
    assert len(found) < 2000
