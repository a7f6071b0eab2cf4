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


def test_a_hastened_delivery_is_due_at_its_new_time_and_only_once() -> None:
    schedule = Schedule()
    first, second = delivery(300.0, 1), delivery(200.0, 2)
    schedule.add(first)
    schedule.add(second)
    assert schedule.hasten(first, 100.0)
    assert first.due_at == schedule.next_due_at == 100.0
    assert len(schedule) == 2
    assert schedule.take_due(1000.0, 10) == [first, second]
    assert schedule.next_due_at is None
    assert len(schedule) == 0


def test_hastening_never_delays_and_never_brings_back_what_was_taken() -> None:
    schedule = Schedule()
    early = delivery(50.0)
    schedule.add(early)
    assert schedule.hasten(early, 100.0)
    assert early.due_at == 50.0
    schedule.take_due(50.0, 1)
    assert not schedule.hasten(early, 10.0)
    assert len(schedule) == 0
    schedule.add(early)
    schedule.remove(early.message_id)
    assert not schedule.hasten(early, 10.0)
    assert schedule.next_due_at is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20), st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans()
        )
    )
)
def test_the_schedule_is_a_sorted_list_whatever_is_done(
    steps: list[tuple[int, int, int, bool, bool]],
) -> None:
    schedule, model, now = Schedule(), [], 0.0
    for due_in, advance, message_id, removes, hastens in steps:
        if removes:
            schedule.remove(message_id)
            model = [d for d in model if d.message_id != message_id]
        waiting = delivery(now + due_in, message_id)
        schedule.add(waiting)
        model.append(waiting)
        if hastens:
            # Equal times come in the order they were set in.
            hastened = model.pop(0)
            if hastened.due_at > now + due_in:
                model.append(hastened)
            else:
                model.insert(0, hastened)
            assert schedule.hasten(hastened, now + due_in)
        now += advance
        due = [d for d in sorted(model, key=lambda d: d.due_at) if d.due_at <= now]
        assert schedule.take_due(now, 100) == due
        model = [d for d in model if d.due_at > now]
        assert len(schedule) == len(model)
        assert schedule.next_due_at == min((d.due_at for d in model), default=None)
