"""Durations, counts, and what strangers wrote, as commands print them."""

import pytest

from gwrelay.commands.printing import at, count, plain, span


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59.4, "59s"),
        (60, "1m"),
        (61, "1m1s"),
        (3600, "1h"),
        (3660, "1h1m"),
        (3601, "1h"),
        (90000, "1d1h"),
        (86400 * 400, "400d"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_words_are_counted() -> None:
    assert (count(1, "delivery"), count(2, "delivery")) == ("1 delivery", "2 deliveries")
    assert (count(0, "message"), count(1, "message")) == ("0 messages", "1 message")


def test_what_a_stranger_wrote_moves_no_cursor() -> None:
    assert plain("250 ok\x1b[2J\nnext\x9b") == "250 ok?[2J next?"


def test_times_are_in_utc() -> None:
    assert at(0.0) == "1970-01-01T00:00:00Z"
