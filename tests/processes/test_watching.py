"""When a worker counts as standing still, and how soon one that ended is started again."""

from gwrelay.processes.watching import BackOff, Stillness


def test_a_beat_that_stays_the_same_counts_for_as_long_as_it_was_looked_at() -> None:
    stillness = Stillness()
    assert stillness.look(7.0, 10.0, 2.0) == 0.0
    assert stillness.look(7.0, 11.0, 2.0) == 1.0
    assert stillness.look(7.0, 12.5, 2.0) == 2.5
    assert stillness.look(12.4, 13.0, 2.0) == 0.0
    assert stillness.look(12.4, 13.5, 2.0) == 0.5


def test_a_pause_of_the_one_who_looks_counts_for_one_look() -> None:
    stillness = Stillness()
    stillness.look(7.0, 10.0, 2.0)
    assert stillness.look(7.0, 3610.0, 2.0) == 2.0


def test_one_that_never_beat_is_starting_and_not_still() -> None:
    stillness = Stillness()
    assert [stillness.look(0.0, float(now), 2.0) for now in range(100, 200)] == [0.0] * 100


def test_the_first_end_costs_no_time_and_each_further_one_twice_as_much_up_to_a_minute() -> None:
    back_off = BackOff()
    delays = [back_off.next_delay_s(0.5) for _ in range(10)]
    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_one_that_ran_for_a_minute_is_started_at_once() -> None:
    back_off = BackOff()
    for _ in range(5):
        back_off.next_delay_s(0.5)
    assert back_off.next_delay_s(60.0) == 0.0
    assert back_off.next_delay_s(0.5) == 1.0
