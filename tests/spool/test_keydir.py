"""keydir.py: like a dict, but in small tables that are in the order of their keys."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from spool.keydir import Keydir, last_beside

#: Microseconds of one table.
SPAN = 1 << 24

KEYS = st.one_of(st.integers(0, 5), st.integers(0, 5 * SPAN), st.just((1 << 64) - 1))
STEPS = st.lists(st.tuples(st.sampled_from(["set", "pop"]), KEYS), max_size=60)


def filled(*keys: int) -> Keydir:
    keydir = Keydir()
    for key in keys:
        keydir[key] = b"%d" % key
    return keydir


def listed(slices: Iterator[list[int]]) -> list[int]:
    return [key for keys in slices for key in keys]


@given(STEPS)
def test_it_is_what_a_dict_would_be(steps: list[tuple[str, int]]) -> None:
    keydir, model = Keydir(), dict[int, bytes]()
    for number, (step, key) in enumerate(steps):
        if step == "set":
            keydir[key] = model[key] = b"%d" % number
        else:
            assert keydir.pop(key) == model.pop(key, None)
        assert (key in keydir, keydir.get(key)) == (key in model, model.get(key))
    assert len(keydir) == len(model)
    assert listed(keydir.slices(3)) == sorted(model)
    assert {key: keydir[key] for key in model} == model


def test_what_is_gone_leaves_no_table_behind() -> None:
    keydir = filled(1, 2, SPAN)
    for key in (1, 2, SPAN, SPAN + 1):
        keydir.pop(key)
    assert not keydir._tables


def test_keys_of_different_times_are_in_different_tables() -> None:
    keydir = filled(1, SPAN - 1, SPAN)
    assert sorted(keydir.table(1)) == [1, SPAN - 1]
    assert (last_beside(1), last_beside(SPAN)) == (SPAN - 1, 2 * SPAN - 1)


def test_slices_are_small_and_ascend() -> None:
    keydir = filled(5, 3, 1, SPAN, 4, 2 * SPAN)
    assert list(keydir.slices(3)) == [[1, 3, 4], [5], [SPAN], [2 * SPAN]]


def test_a_slice_is_without_what_has_gone_since_the_last() -> None:
    keydir = filled(1, 2, 3, 4, SPAN, 2 * SPAN)
    slices = keydir.slices(2)
    assert next(slices) == [1, 2]
    for key in (1, 3, SPAN):
        keydir.pop(key)
    keydir[5 * SPAN] = b"new"
    assert listed(slices)[:2] == [4, 2 * SPAN]
