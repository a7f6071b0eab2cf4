"""Who counts as one sender."""

import pytest

from gwrelay.queue.senders import number_of


@pytest.mark.parametrize(
    ("fair_by", "same", "other"),
    [
        ("sender-domain", ["a@b.test", "c@b.test", "C@B.TEST"], "a@c.test"),
        ("sender", ["a@b.test", "A@b.Test"], "c@b.test"),
    ],
)
def test_senders_are_told_apart_as_is_wanted(fair_by: str, same: list[str], other: str) -> None:
    numbers = {number_of(path, fair_by) for path in same}
    assert len(numbers) == 1
    assert number_of(other, fair_by) not in numbers
    assert all(1 <= number <= 32_767 for number in numbers)


@pytest.mark.parametrize(("path", "fair_by"), [("a@b.test", "none"), ("", "sender-domain")])
def test_bounces_are_one_sender_and_so_is_everybody_if_nobody_takes_turns(
    path: str, fair_by: str
) -> None:
    assert number_of(path, fair_by) == 0


def test_an_address_beyond_ascii_has_a_number_too() -> None:
    assert number_of("jörg@bücher.test", "sender") > 0
