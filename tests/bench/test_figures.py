"""Percentiles, as a table."""

import pytest

from gwrelay_bench.figures import latency, medians, percentile

PERCENTILES = [
    ([1.0], 0.5, 1.0),
    ([1.0], 0.99, 1.0),
    ([1.0, 2.0], 0.5, 1.0),
    ([1.0, 2.0, 3.0], 0.5, 2.0),
    ([float(n) for n in range(1, 101)], 0.99, 99.0),
    ([float(n) for n in range(1, 201)], 0.99, 198.0),
    ([1.0, 2.0], 0.0, 1.0),
    ([1.0, 2.0], 1.0, 2.0),
]


@pytest.mark.parametrize(("ordered", "share", "expected"), PERCENTILES)
def test_a_percentile_is_one_of_the_values(
    ordered: list[float], share: float, expected: float
) -> None:
    assert percentile(ordered, share) == expected


def test_latency_is_in_milliseconds_and_needs_no_order() -> None:
    assert latency([0.003, 0.001, 0.002]) == {"p50": 2.0, "p99": 3.0, "max": 3.0}


def test_no_values_have_no_latency() -> None:
    assert latency([]) is None


def test_medians_are_taken_figure_by_figure() -> None:
    rounds = [{"a": 1.0, "b": 9.0}, {"a": 3.0, "b": 7.0}, {"a": 2.004, "b": 8.0}]
    assert medians(rounds) == {"a": 2.0, "b": 8.0}
