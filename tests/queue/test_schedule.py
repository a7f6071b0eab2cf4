"""The picture of what waits, in memory."""

import gc
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwrelay.queue.schedule import Schedule


def scheduled(*entries: tuple[float, int, int]) -> Schedule:
    schedule = Schedule()
    for entry in entries:
        schedule.add(*entry)
    return schedule


def test_an_empty_schedule_has_nothing_due_ever() -> None:
    schedule = Schedule()
    assert schedule.take_due(1e12, 10) == []
    assert schedule.next_due_at is None
    assert len(schedule) == 0


def test_what_is_due_comes_earliest_first_and_only_that() -> None:
    schedule = scheduled((300.0, 1, 0), (100.0, 2, 0), (200.0, 3, 0))
    assert schedule.take_due(200.0, 10) == [(100.0, 2, 0), (200.0, 3, 0)]
    assert schedule.next_due_at == 300.0
    assert len(schedule) == 1


def test_a_limit_leaves_the_later_ones_for_the_next_time() -> None:
    schedule = scheduled((3.0, 1, 0), (1.0, 1, 1), (2.0, 1, 2))
    assert [entry[0] for entry in schedule.take_due(10.0, 2)] == [1.0, 2.0]
    assert [entry[0] for entry in schedule.take_due(10.0, 2)] == [3.0]


def test_equal_times_keep_the_order_they_were_added_in() -> None:
    ids = [7, 3, 2**40, 1, 300]
    schedule = scheduled(*[(5.0, message_id, 0) for message_id in ids])
    assert [entry[1] for entry in schedule.take_due(5.0, 100)] == ids


def test_what_is_first_comes_before_all_that_is_due_and_in_its_own_order() -> None:
    schedule = scheduled(*[(float(n), n, 0) for n in range(1000)])
    schedule.add_first(2000.0, 7001, 0)
    schedule.add_first(1999.0, 7000, 0)
    assert schedule.next_due_at == 0.0
    assert [entry[1] for entry in schedule.take_due(1500.0, 3)] == [7001, 7000, 0]
    assert len(schedule) == 999


def test_no_more_of_what_is_first_is_taken_than_is_asked_for() -> None:
    schedule = Schedule()
    for n in range(5):
        schedule.add_first(1.0, n, 0)
    assert [entry[1] for entry in schedule.take_due(9.0, 2)] == [0, 1]
    assert [entry[1] for entry in schedule.take_due(9.0, 9)] == [2, 3, 4]


def test_what_waits_is_nothing_the_garbage_collector_follows() -> None:
    """A million that it followed would stop the gateway for most of a second."""
    schedule = Schedule()
    gc.collect()
    before = len(gc.get_objects())
    for n in range(10_000):
        schedule.add(1.5 + n, n, 0)
    gc.collect()
    assert len(gc.get_objects()) < before + 1000


def test_a_time_before_the_epoch_is_long_past() -> None:
    schedule = scheduled((5.0, 1, 0), (-3.0, 2, 0))
    assert [entry[1] for entry in schedule.take_due(0.0, 9)] == [2]


def test_hastened_nothing_waits_for_longer_and_the_rest_as_before() -> None:
    schedule = scheduled((900.0, 2, 0), (800.0, 1, 4), (100.0, 3, 0), (500.0, 4, 0))
    schedule.hasten_all(500.0)
    assert schedule.take_due(499.0, 9) == [(100.0, 3, 0)]
    assert schedule.take_due(500.0, 9) == [(500.0, 2, 0), (500.0, 1, 4), (500.0, 4, 0)]


TIMES = st.one_of(st.integers(0, 20).map(float), st.floats(0.0, 1e10, allow_subnormal=False))


@given(st.lists(st.tuples(TIMES, st.integers(1, 2**63), st.integers(0, 2**32 - 1), TIMES)))
def test_the_schedule_is_a_sorted_list_whatever_is_done(
    steps: list[tuple[float, int, int, float]],
) -> None:
    schedule, model = Schedule(), []
    for due_at, message_id, part, now in steps:
        schedule.add(due_at, message_id, part)
        model.append((due_at, message_id, part))
        due = sorted((e for e in model if e[0] <= now), key=lambda e: e[0])
        assert schedule.take_due(now, 100) == due
        model = [entry for entry in model if entry[0] > now]
        assert len(schedule) == len(model)
        assert schedule.next_due_at == min((entry[0] for entry in model), default=None)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 9), st.booleans()))
)
def test_what_is_hastened_comes_once_and_at_its_new_time(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    schedule, model, taken = Schedule(), {}, []
    for message_id, (due_at, now, which, hastens) in enumerate(steps):
        number = schedule.add_known(float(due_at), message_id, 0)
        model[number] = (float(due_at), message_id, 0)
        if hastens:
            some = sorted(model)[which % len(model)]
            _, hastened, part = model.pop(some)
            assert schedule.hasten(some, 0.0, hastened, part)
            taken.append(some)
            # It has no number now by which it could be found.
            assert (0.0, hastened, part) in schedule.take_due(0.0, 100)
            model = {n: entry for n, entry in model.items() if entry[0] > 0.0}
        due = sorted(entry[0] for entry in model.values() if entry[0] <= now)
        assert [entry[0] for entry in schedule.take_due(float(now), 100)] == due
        taken += [n for n, entry in model.items() if entry[0] <= now]
        model = {n: entry for n, entry in model.items() if entry[0] > now}
        assert len(schedule) == len(model)
        assert all(schedule.knows(n) for n in model)
        assert not any(schedule.knows(n) or schedule.hasten(n, 0.0, 1, 0) for n in taken)


def test_what_is_removed_never_comes_and_what_is_added_after_it_does() -> None:
    schedule = scheduled((5.0, 1, 0), (6.0, 1, 4), (7.0, 2, 0))
    schedule.remove(1, 0)
    schedule.add(8.0, 1, 0)
    schedule.remove(1, 0)
    schedule.add(9.0, 1, 0)
    schedule.remove(2, 0)
    assert len(schedule) == 2
    assert schedule.take_due(100.0, 9) == [(6.0, 1, 4), (9.0, 1, 0)]
    assert len(schedule) == 0


def test_what_was_removed_is_hastened_no_more() -> None:
    schedule = Schedule()
    number = schedule.add_known(5.0, 1, 0)
    schedule.remove(1, 0)
    assert not schedule.hasten(number, 0.0, 1, 0)
    schedule.add(9.0, 1, 0)
    assert schedule.take_due(100.0, 9) == [(9.0, 1, 0)]


def test_what_is_removed_again_and_again_leaves_the_memory_in_the_end() -> None:
    schedule = Schedule()
    for message_id in range(500):
        schedule.add(1e9, message_id, 0)
    for turn in range(50):
        for message_id in range(500):
            schedule.remove(message_id, 0)
            schedule.add(1e9 + turn, message_id, 0)
        assert len(schedule) == 500
        assert len(schedule._heap) + len(schedule._old) < 5000
    assert [entry[1] for entry in schedule.take_due(2e9, 1000)] == list(range(500))
    assert not schedule._removed


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(0, 3),
            st.sampled_from(["add", "add first", "put forward", "remove", "hasten", "take"]),
        )
    )
)
def test_each_part_comes_once_at_its_newest_time_whatever_is_done(
    steps: list[tuple[int, int, str]],
) -> None:
    """With so little room for what is removed that it is tidied up all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gwrelay.queue.schedule._TIDY_ABOVE", 1)
        patch.setattr("gwrelay.queue.schedule._TIDIED_AT_ONCE", 1)
        schedule, model, first, numbers = Schedule(), {}, {}, {}
        for due_at, message_id, step in steps:
            at = float(due_at)
            waits = message_id in model or message_id in first
            if step == "add" and not waits:
                numbers[message_id] = schedule.add_known(at, message_id, 0)
                model[message_id] = at
            elif step == "add first" and not waits:
                schedule.add_first(at, message_id, 0)
                first[message_id] = at
            elif step in ("put forward", "remove") and waits:
                schedule.remove(message_id, 0)
                model.pop(message_id, None)
                first.pop(message_id, None)
                if step == "put forward":
                    schedule.add(at, message_id, 0)
                    model[message_id] = at
            elif step == "hasten" and message_id in numbers:
                if schedule.hasten(numbers.pop(message_id), at, message_id, 0):
                    model[message_id] = at
            elif step == "take":
                due = sorted((at, message_id) for message_id, at in model.items() if at <= due_at)
                found = [entry[:2] for entry in schedule.take_due(at, 100)]
                assert found[: len(first)] == [(at, message_id) for message_id, at in first.items()]
                del found[: len(first)]
                first.clear()
                assert sorted(found) == due
                assert [entry[0] for entry in found] == [entry[0] for entry in due]
                model = {message_id: at for message_id, at in model.items() if at > due_at}
            assert len(schedule) == len(model) + len(first)
            times = [*model.values(), *list(first.values())[:1]]
            next_due_at = schedule.next_due_at
            assert next_due_at is not None or not times
            assert not times or next_due_at <= min(times)


def test_what_is_due_behind_the_last_of_what_was_removed_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gwrelay.queue.schedule._TIDY_ABOVE", 0)
    monkeypatch.setattr("gwrelay.queue.schedule._TIDIED_AT_ONCE", 0)
    schedule = scheduled((1.0, 1, 0), (2.0, 2, 0))
    schedule.remove(1, 0)
    schedule.remove(2, 0)
    schedule.add(5.0, 3, 0)
    assert schedule.take_due(10.0, 9) == [(5.0, 3, 0)]


_STEPS = ("add", "add first", "take", "put forward", "hasten", "remove")


@given(st.integers(0, 2**32))
@settings(max_examples=400)
def test_a_walk_marks_all_that_is_there_at_its_end_and_nothing_that_never_was(seed: int) -> None:
    """Whatever comes and goes between its steps, and whether or not it is tidied up."""
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gwrelay.queue.schedule._TIDY_ABOVE", rng.choice([1, 10, 20, 1000]))
        patch.setattr("gwrelay.queue.schedule._TIDIED_AT_ONCE", rng.randint(1, 4))
        schedule, numbers, there = Schedule(), {}, {}
        steps = (
            ["add"] * 50
            + ["add first"] * 10
            + rng.choices(_STEPS, [rng.random() ** 2 for _ in _STEPS], k=120)
        )
        steps[rng.randint(60, 170)] = "hasten all"
        begins_at, pace = rng.randint(60, 150), rng.uniform(0.2, 0.8)
        for n, step in enumerate(steps):
            if n == begins_at:
                schedule.begin_walk(seed=n)
            # What is added late tends to be due early: that moves most.
            at = rng.uniform(0.0, 1000.0) / (1 + n)
            some = rng.choice(list(there) or [0])
            if step == "add":
                numbers[n] = schedule.add_known(at, n, 0)
                there[n] = at
            elif step == "add first":
                schedule.add_first(at, n, 0)
                there[n] = at
            elif step == "put forward" and there:
                schedule.remove(some, 0)
                schedule.add(at, some, 0)
            elif step == "remove" and there:
                schedule.remove(some, 0)
                del there[some]
            elif step == "hasten" and some in numbers:
                schedule.hasten(numbers.pop(some), at, some, 0)
            elif step == "take":
                for _, taken, _ in schedule.take_due(1000.0, rng.randint(1, 2)):
                    del there[taken]
            elif step == "hasten all":
                schedule.hasten_all(at)
            while n >= begins_at and rng.random() < pace:
                found = schedule.walk_on(2)
                assert {message_id for _, message_id, _ in found or ()} <= there.keys()
        while schedule.walk_on(2) is not None:
            pass
        assert {m for m in there if not schedule.is_marked(m, 0)} == set()
        assert not any(schedule.is_marked(m, 1) for m in range(len(steps)))


def test_a_walk_does_not_follow_those_that_come_into_the_line() -> None:
    """Mail may come faster than the walk goes on."""
    schedule = Schedule()
    for message_id in range(4):
        schedule.add_first(1.0, message_id, 0)
    schedule.begin_walk(seed=1)
    met = []
    for message_id in range(4, 8):
        met += [one[1] for one in schedule.walk_on(2) or ()]
        schedule.add_first(1.0, message_id, 0)
    assert met == [3, 2, 1, 0]
    assert all(schedule.is_marked(message_id, 0) for message_id in range(8))


def test_one_entry_of_two_is_dropped_by_its_number() -> None:
    schedule = scheduled((5.0, 1, 0), (7.0, 1, 0))
    schedule.begin_walk(seed=1)
    (first, *_), (second, *_) = schedule.walk_on(9)
    schedule.drop(min(first, second))
    assert len(schedule) == 1
    assert schedule.take_due(100.0, 9) == [(7.0, 1, 0)]
