"""Bad-host marks that one worker sets and all of them see."""

import os
import random
from collections.abc import Iterator

import pytest

from gwrelay.mx.marks import Marks, place
from gwrelay.relay.nodemarks import NodeMarks, new_marks

A, B = "192.0.2.1", "2001:db8::1"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held(clock: Clock) -> Iterator[list[NodeMarks]]:
    descriptor = new_marks(2, 64)
    yield [NodeMarks(descriptor, 2, n, 3600.0, clock, 64) for n in range(2)]
    os.close(descriptor)


def marks_in(held: NodeMarks) -> Marks:
    marks = Marks(30.0, 3600.0, 0.0, random.Random(1))
    marks.held = held  # type: ignore[assignment]
    return marks


def test_what_one_marks_is_marked_for_all_and_cleared_for_all(
    held: list[NodeMarks], clock: Clock
) -> None:
    one, other = map(marks_in, held)
    assert not held[1]
    until = one.mark(A, "", clock.now)
    assert held[1]
    assert other.until(A, "", clock.now) == until == 1_000_030.0
    assert other.until(A, "192.0.2.9", clock.now) == 0.0
    assert other.until(place(A, 26), "", clock.now) == 0.0
    other.clear(A, "")
    assert one.until(A, "", clock.now) == 0.0
    assert list(held[0]) == []


def test_all_workers_know_why_a_host_is_marked(held: list[NodeMarks], clock: Clock) -> None:
    one, other = map(marks_in, held)
    one.mark(A, "", clock.now, "421 4.4.1 connection refused")
    [mark] = other.running(clock.now)
    assert mark.why == other.why(A, "") == "421 4.4.1 connection refused"
    clock.now += 31.0
    assert other.why(A, "") == mark.why, "a mark that ended is remembered"
    one.mark(A, "", clock.now, "421 closing")
    assert other.why(A, "") == "421 closing", "nothing of a longer one is left"
    other.mark_until(A, "", clock.now, clock.now + 5.0)
    assert one.why(A, "") == "", "the operator's have none"


def test_a_reply_too_long_for_a_row_is_cut_between_characters(
    held: list[NodeMarks], clock: Clock
) -> None:
    said = "554 not \N{ENVELOPE}" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 200
    marks_in(held[0]).mark(A, "", clock.now, said)
    kept = marks_in(held[1]).why(A, "")
    assert said.startswith(kept)
    assert len(kept) > 70


def test_failures_that_several_workers_see_double_a_mark_as_those_of_one(
    held: list[NodeMarks], clock: Clock
) -> None:
    one, other = map(marks_in, held)
    assert one.mark(A, "", 1_000_000.0) == 1_000_030.0
    assert other.mark(A, "", 1_000_001.0) == 1_000_030.0, "it tells of the same trouble"
    assert other.mark(A, "", 1_000_031.0) == 1_000_091.0
    assert one.mark(A, "", 1_000_092.0) == 1_000_212.0


def test_all_workers_list_all_marks_with_their_places(held: list[NodeMarks], clock: Clock) -> None:
    one, other = map(marks_in, held)
    one.mark(A, "192.0.2.9", clock.now)
    other.mark(place(B, 2525), "", clock.now)
    found = {(mark.source, mark.address, mark.port) for mark in one.running(clock.now)}
    assert found == {("192.0.2.9", A, 0), ("", B, 2525)}
    assert {(m.source, m.address, m.port) for m in other.running(clock.now)} == found
    assert other.clear_everywhere(frozenset({A})) == 1
    assert [mark.address for mark in one.running(clock.now)] == [B]


def test_a_mark_is_remembered_for_a_while_after_its_end(
    held: list[NodeMarks], clock: Clock
) -> None:
    one, other = map(marks_in, held)
    one.mark(A, "", 1_000_000.0)
    clock.now = 1_000_030.0 + 3599.0
    assert held[1]
    assert other.mark(A, "", clock.now) == clock.now + 60.0
    clock.now += 60.0 + 3601.0
    assert not held[0]
    assert list(held[0]) == []
    assert other.mark(A, "", clock.now) == clock.now + 30.0


def test_old_marks_make_room_for_new_ones(held: list[NodeMarks], clock: Clock) -> None:
    for n in range(500):
        marks_in(held[n % 2]).mark(f"192.0.2.{n}", "", clock.now)
        assert held[1 - n % 2].get(("", f"192.0.2.{n}")) is not None
        clock.now += 4000.0


def test_a_mark_that_finds_no_room_is_this_workers_own(held: list[NodeMarks], clock: Clock) -> None:
    one, other = map(marks_in, held)
    addresses = [f"192.0.2.{n}" for n in range(200)]
    for address in addresses:
        one.mark(address, "", clock.now)
    assert all(one.until(address, "", clock.now) for address in addresses)
    assert len(one.running(clock.now)) == 200
    assert 16 < len(other.running(clock.now)) < 200
    clock.now += 4000.0
    one.forget(clock.now)
    assert len(one) == 0


def test_a_mark_of_its_own_that_finds_room_later_is_everybodys(
    held: list[NodeMarks], clock: Clock
) -> None:
    one, other = map(marks_in, held)
    addresses = [f"192.0.2.{n}" for n in range(200)]
    for address in addresses:
        one.mark(address, "", clock.now)
    own = next(address for address in addresses if not other.until(address, "", clock.now))
    other.clear_everywhere(frozenset(addresses))
    one.mark_until(own, "", clock.now, clock.now + 20.0)
    assert other.until(own, "", clock.now) == clock.now + 20.0
    other.clear(own, "")
    assert not one.until(own, "", clock.now)


def test_what_is_not_marked_is_a_key_error(held: list[NodeMarks]) -> None:
    with pytest.raises(KeyError):
        held[0]["", A]
    with pytest.raises(KeyError):
        del held[0]["", A]
    assert held[0].pop(("", A), None) is None


def test_a_long_place_is_kept_and_found(held: list[NodeMarks], clock: Clock) -> None:
    source = "2001:db8:1111:2222:3333:4444:5555:6666"
    address = place("fe80::1111:2222:3333:4444%enp0s31f6", 65535)
    marks_in(held[0]).mark(address, source, clock.now)
    assert list(held[1]) == [(source, address)]
