"""The choice of addresses for one attempt."""

import random
from collections import Counter

import pytest

from gwrelay.mx.candidates import Candidate, make_plan
from gwrelay.mx.exchanges import Exchange


def plan(exchanges, marks=None, limit=5, prefer="", seed=1):
    until = None if marks is None else lambda c: marks.get(c.address, 0.0)
    return make_plan(exchanges, until, limit, prefer, random.Random(seed))


def names(found) -> list[str]:
    return [candidate.exchange for candidate in found.candidates]


def found_addresses(found) -> list[str]:
    return [candidate.address for candidate in found.candidates]


def test_a_site_of_one_address_has_that_candidate() -> None:
    found = plan([Exchange(10, "a", ("192.0.2.1",))])
    assert found.candidates == (Candidate("a", "192.0.2.1", preference=10),)
    assert found.all_marked_until == 0.0


def test_lower_preferences_come_first() -> None:
    exchanges = [Exchange(n, f"m{n}", (f"192.0.2.{n}",)) for n in (1, 2, 3)]
    assert all(names(plan(exchanges, seed=s)) == ["m1", "m2", "m3"] for s in range(20))


def test_equals_share_the_first_place_evenly_however_many_addresses_each_has() -> None:
    exchanges = [
        Exchange(10, "many", tuple(f"192.0.2.{n}" for n in range(1, 5))),
        Exchange(10, "one", ("198.51.100.1",)),
    ]
    rng = random.Random(7)
    first = Counter(
        make_plan(exchanges, None, 5, "", rng).candidates[0].exchange for _ in range(2000)
    )
    assert 900 < first["one"] < 1100


def test_the_second_try_goes_to_another_host_where_there_is_one() -> None:
    exchanges = [
        Exchange(10, n, (f"192.0.2.{k}", f"192.0.2.{k + 1}")) for k, n in ((1, "a"), (3, "b"))
    ]
    assert all(len(set(names(plan(exchanges, seed=s))[:2])) == 2 for s in range(20))


def test_addresses_of_one_host_share_the_first_place_evenly() -> None:
    exchange = Exchange(10, "a", ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"))
    rng = random.Random(7)
    first = Counter(
        make_plan([exchange], None, 5, "", rng).candidates[0].address for _ in range(2000)
    )
    assert all(400 < first[address] < 600 for address in exchange.addresses)


def test_families_alternate() -> None:
    exchange = Exchange(10, "a", ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"))
    for seed in range(20):
        six = [":" in address for address in found_addresses(plan([exchange], seed=seed))]
        assert six in ([True, False, True, False], [False, True, False, True])


@pytest.mark.parametrize("prefer", ["4", "6"])
def test_a_preferred_family_comes_first_within_a_preference(prefer) -> None:
    exchange = Exchange(10, "a", ("192.0.2.1", "2001:db8::1"))
    for seed in range(20):
        first = found_addresses(plan([exchange], prefer=prefer, seed=seed))[0]
        assert (":" in first) == (prefer == "6")


def test_no_more_addresses_are_tried_than_the_limit() -> None:
    exchange = Exchange(10, "a", tuple(f"192.0.2.{n}" for n in range(1, 20)))
    assert len(plan([exchange]).candidates) == 5


@pytest.mark.parametrize(
    ("six", "four", "limit", "wanted_six", "wanted_four"),
    [
        (8, 8, 5, 3, 2),
        (8, 1, 5, 4, 1),
        (8, 0, 5, 5, 0),
        (1, 8, 5, 1, 4),
        (8, 8, 2, 1, 1),
        (3, 8, 5, 3, 2),
    ],
)
def test_many_addresses_of_one_family_do_not_hide_the_other(
    six, four, limit, wanted_six, wanted_four
) -> None:
    exchanges = [Exchange(10, "six", tuple(f"2001:db8::{n + 1}" for n in range(six)))]
    if four:
        exchanges.append(Exchange(20, "four", tuple(f"192.0.2.{n + 1}" for n in range(four))))
    chosen = names(plan(exchanges, limit=limit))
    assert (chosen.count("six"), chosen.count("four")) == (wanted_six, wanted_four)
    assert chosen == sorted(chosen, reverse=True), "preference still decides the order"


def test_an_address_of_two_exchanges_is_tried_once() -> None:
    exchanges = [Exchange(10, "a", ("192.0.2.1",)), Exchange(20, "b", ("192.0.2.1", "192.0.2.2"))]
    assert [c[:2] for c in plan(exchanges).candidates] == [("a", "192.0.2.1"), ("b", "192.0.2.2")]


def test_marked_addresses_come_last_soonest_free_first() -> None:
    exchanges = [Exchange(n, f"m{n}", (f"192.0.2.{n}",)) for n in (1, 2, 3, 4)]
    found = plan(exchanges, {"192.0.2.1": 300.0, "192.0.2.3": 200.0})
    assert names(found) == ["m2", "m4", "m3", "m1"]
    assert found.all_marked_until == 0.0


def test_unmarked_addresses_beyond_the_limit_displace_marked_ones() -> None:
    exchange = Exchange(1, "a", tuple(f"192.0.2.{n}" for n in range(1, 11)))
    marks = {f"192.0.2.{n}": 100.0 for n in range(1, 6)}
    assert not set(found_addresses(plan([exchange], marks))) & set(marks)


def test_when_all_are_marked_the_one_whose_mark_ends_first_is_left() -> None:
    exchanges = [Exchange(n, f"m{n}", (f"192.0.2.{n}",)) for n in (1, 2, 3)]
    found = plan(exchanges, {"192.0.2.1": 300.0, "192.0.2.2": 200.0, "192.0.2.3": 250.0})
    assert names(found) == ["m2"]
    assert found.all_marked_until == 200.0


def test_the_exchanges_themselves_are_never_changed() -> None:
    exchanges = tuple(Exchange(10, n, ("192.0.2.1", "2001:db8::1")) for n in "abc")
    before = repr(exchanges)
    for seed in range(20):
        plan(exchanges, {}, seed=seed)
    assert repr(exchanges) == before
