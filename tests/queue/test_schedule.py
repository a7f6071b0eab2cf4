"""The picture of what waits, in memory."""

import gc

from hypothesis import given
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
