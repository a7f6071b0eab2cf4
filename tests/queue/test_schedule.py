"""The picture of what waits, in memory."""

from hypothesis import given
from hypothesis import strategies as st

from gwrelay.queue.delivery import Delivery
from gwrelay.queue.schedule import Schedule


def delivery(due_at: float, message_id: int = 1) -> Delivery:
    return Delivery(message_id, "b.test", (0,), 0.0, False, due_at=due_at)


def test_an_empty_schedule_has_nothing_due_ever() -> None:
    schedule = Schedule()
    assert schedule.take_due(1e12, 10) == []
    assert schedule.next_due_at is None
    assert len(schedule) == 0


def test_what_is_due_comes_earliest_first_and_only_that() -> None:
    schedule = Schedule()
    late, early, now = delivery(300.0), delivery(100.0), delivery(200.0)
    for waiting in (late, early, now):
        schedule.add(waiting)
    assert schedule.take_due(200.0, 10) == [early, now]
    assert schedule.next_due_at == 300.0
    assert len(schedule) == 1


def test_a_limit_leaves_the_later_ones_for_the_next_time() -> None:
    schedule = Schedule()
    for due_at in (3.0, 1.0, 2.0):
        schedule.add(delivery(due_at))
    assert [d.due_at for d in schedule.take_due(10.0, 2)] == [1.0, 2.0]
    assert [d.due_at for d in schedule.take_due(10.0, 2)] == [3.0]


def test_equal_times_keep_the_order_they_were_added_in() -> None:
    schedule = Schedule()
    for message_id in range(20):
        schedule.add(delivery(5.0, message_id))
    assert [d.message_id for d in schedule.take_due(5.0, 100)] == list(range(20))


def test_a_removed_message_is_gone_with_all_its_deliveries() -> None:
    schedule = Schedule()
    for due_at in (3.0, 1.0, 2.0, 5.0, 4.0):
        schedule.add(delivery(due_at, message_id=int(due_at) % 2))
    schedule.remove(1)
    assert len(schedule) == 2
    assert schedule.next_due_at == 2.0
    assert [d.due_at for d in schedule.take_due(10.0, 9)] == [2.0, 4.0]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3), st.integers(0, 3), st.booleans())))
def test_the_schedule_is_a_sorted_list_whatever_is_done(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    schedule, model, now = Schedule(), [], 0.0
    for due_in, advance, message_id, removes in steps:
        if removes:
            schedule.remove(message_id)
            model = [d for d in model if d.message_id != message_id]
        waiting = delivery(now + due_in, message_id)
        schedule.add(waiting)
        model.append(waiting)
        now += advance
        due = [d for d in sorted(model, key=lambda d: d.due_at) if d.due_at <= now]
        assert schedule.take_due(now, 100) == due
        model = [d for d in model if d.due_at > now]
        assert len(schedule) == len(model)
        assert schedule.next_due_at == min((d.due_at for d in model), default=None)
