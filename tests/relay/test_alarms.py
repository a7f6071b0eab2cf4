"""When something is to be looked at."""

from hypothesis import given
from hypothesis import strategies as st

from gwrelay.relay.alarms import Alarms


def test_the_earliest_rings_first_and_once() -> None:
    alarms: Alarms[str] = Alarms()
    assert alarms.next_at is None
    alarms.set("b", 20.0)
    alarms.set("a", 10.0)
    assert alarms.next_at == 10.0
    assert alarms.due(9.9) == []
    assert alarms.due(20.0) == ["a", "b"]
    assert alarms.due(20.0) == []
    assert alarms.next_at is None


def test_the_newest_of_a_name_counts() -> None:
    alarms: Alarms[str] = Alarms()
    alarms.set("a", 10.0)
    alarms.set("a", 30.0)
    assert alarms.due(20.0) == []
    alarms.set_earlier("a", 40.0)
    alarms.set_earlier("a", 25.0)
    assert alarms.due(25.0) == ["a"]
    assert alarms.due(100.0) == []


def test_what_is_cancelled_does_not_ring() -> None:
    alarms: Alarms[str] = Alarms()
    alarms.set("a", 10.0)
    alarms.cancel("a")
    alarms.cancel("b")
    assert alarms.due(20.0) == []
    alarms.set("a", 10.0)
    assert alarms.due(20.0) == ["a"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 5), st.integers(0, 20)),
            st.tuples(st.just("set_earlier"), st.integers(0, 5), st.integers(0, 20)),
            st.tuples(st.just("cancel"), st.integers(0, 5)),
            st.tuples(st.just("due"), st.integers(0, 20)),
        ),
        max_size=100,
    )
)
def test_as_a_table_of_times(steps: list[tuple[object, ...]]) -> None:
    alarms: Alarms[int] = Alarms()
    table: dict[int, float] = {}
    for word, *arguments in steps:
        if word == "due":
            [now] = arguments
            due = sorted(name for name, at in table.items() if at <= now)
            assert sorted(alarms.due(now)) == due
            for name in due:
                del table[name]
        elif word == "cancel":
            table.pop(arguments[0], None)
            alarms.cancel(arguments[0])
        else:
            name, at = arguments
            if word == "set" or at < table.get(name, 99):
                table[name] = at
            getattr(alarms, word)(name, at)
        assert sorted(alarms.names()) == sorted(table)
        if table:
            assert alarms.next_at is not None
            assert alarms.next_at <= min(table.values())


def test_what_is_set_again_and_again_does_not_pile_up() -> None:
    alarms: Alarms[str] = Alarms()
    for n in range(100_000):
        alarms.set("a", float(n))
    assert alarms.due(99_998.0) == []
    assert alarms.due(99_999.0) == ["a"]
