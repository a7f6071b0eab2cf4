"""The bounded table and its visits."""

import math

from gwrelay.mx.cache import Cache, Entry


def entry(visit_at: float) -> Entry[str]:
    return Entry("value", 0.0, 100.0, 200.0, visit_at)


def visits(cache: Cache[str, str], now: float) -> list[str]:
    found = []
    while cache.next_at() <= now:
        key = cache.next_visit()
        if key is not None:
            found.append(key)
    return found


def test_visits_come_in_the_order_of_their_times() -> None:
    cache: Cache[str, str] = Cache(10)
    for key, at in (("c", 30.0), ("a", 10.0), ("b", 20.0)):
        cache.put(key, entry(at))
    assert visits(cache, 9.0) == []
    assert visits(cache, 20.0) == ["a", "b"]
    assert visits(cache, 29.9) == []
    assert visits(cache, 99.0) == ["c"]
    assert cache.next_at() == math.inf


def test_a_visit_that_was_moved_happens_once_and_at_its_new_time() -> None:
    cache: Cache[str, str] = Cache(10)
    cache.put("a", entry(10.0))
    cache.visit("a", 50.0)
    assert visits(cache, 49.0) == []
    assert visits(cache, 50.0) == ["a"]


def test_what_was_replaced_or_dropped_is_not_visited() -> None:
    cache: Cache[str, str] = Cache(10)
    cache.put("a", entry(10.0))
    cache.put("a", entry(30.0))
    cache.put("b", entry(10.0))
    cache.drop("b")
    assert visits(cache, 99.0) == ["a"]


def test_keys_of_different_types_may_be_due_at_the_same_time() -> None:
    cache: Cache[object, str] = Cache(10)
    for key in ("a", ("a",), ("a", 1)):
        cache.put(key, entry(10.0))
    for _ in range(3):
        assert cache.next_visit() is not None


def test_the_entry_unused_for_longest_leaves_first() -> None:
    cache: Cache[str, str] = Cache(2)
    for key in "ab":
        cache.put(key, entry(10.0))
    cache.get("a")
    cache.peek("b")
    cache.put("c", entry(10.0))
    assert [key for key in "abc" if cache.peek(key)] == ["a", "c"]


def test_a_visit_is_never_early_and_less_than_a_second_late() -> None:
    cache: Cache[str, str] = Cache(10)
    cache.put("a", entry(10.4))
    assert visits(cache, 10.3) == []
    assert visits(cache, 11.3) == ["a"]


def test_entries_that_leave_by_age_take_their_visits_along() -> None:
    cache: Cache[str, str] = Cache(2)
    for n in range(1000):
        cache.put(f"k{n}", entry(10.0))
    assert sorted(visits(cache, 10.0)) == ["k998", "k999"]
