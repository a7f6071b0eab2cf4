"""index.py: what lives, where, and which segments that needs."""

import sys

import pytest

from spool import Amend, Chunk, Drop, Put
from spool.frame import AnyRecord
from spool.index import Index, Place


def index_of(*frames: tuple[int, AnyRecord]) -> Index:
    """An index that was told of these records, each a frame of 100 bytes in that segment."""
    index = Index()
    for n, (segment, record) in enumerate(frames):
        index.apply(Place(segment, 1024 + 100 * n, 100), [record])
    return index


PUT = Put(1, b"new", b"head", b"body")


def keys_of(index: Index) -> list[int]:
    return [key for keys in index.slices() for key in keys]


def needed(index: Index, *present: int) -> list[int]:
    return [segment for segment in present if index.is_needed(segment, present)]


def test_a_key_lives_from_put_to_drop() -> None:
    assert keys_of(index_of((1, PUT))) == [1]
    dropped = index_of((1, PUT), (1, Drop(1)))
    assert (keys_of(dropped), dropped.living_bytes, 1 in dropped) == ([], 0, False)


def test_the_newest_state_counts_and_the_body_stays_where_it_was() -> None:
    index = index_of((1, PUT), (2, Amend(1, b"older")), (3, Amend(1, b"newest")))
    assert index.state(1) == b"newest"
    assert index.place(1) == Place(1, 1024, 100)


def test_amend_and_drop_of_a_key_that_does_not_live_do_nothing() -> None:
    index = index_of((1, Amend(1, b"x")), (1, Drop(1)))
    assert (len(index), index.living_bytes) == (0, 0)


def test_keys_come_oldest_first_whatever_the_order_in_the_log() -> None:
    index = index_of(*[(1, Put(key, b"", b"", b"")) for key in (3, 1, 2)])
    assert keys_of(index) == [1, 2, 3]


def test_the_last_key_is_remembered_when_it_is_gone() -> None:
    assert index_of((1, Put(9, b"", b"", b"")), (1, Drop(9))).last_key == 9
    assert index_of((1, Chunk(8, 0, b""))).last_key == 8


def test_what_is_gone_is_a_key_error() -> None:
    for ask in (Index().place, Index().state):
        with pytest.raises(KeyError):
            ask(1)


def test_chunks_are_listed_by_number_with_the_missing_ones() -> None:
    index = index_of((1, Chunk(1, 0, b"a")), (2, Chunk(1, 2, b"c")))
    assert index.chunks(1) == [Place(1, 1024, 100), None, Place(2, 1124, 100)]
    assert index.chunks(2) == []


def test_chunks_without_a_put_are_forgotten_as_orphans() -> None:
    index = index_of((1, Chunk(1, 0, b"a")), (1, Chunk(2, 0, b"b")), (1, Put(2, b"", b"", b"", 1)))
    index.forget_orphans(9)
    assert (index.chunks(1), len(index.chunks(2))) == ([], 1)


def test_a_drop_ends_chunks_whose_put_never_came() -> None:
    index = index_of((1, Chunk(1, 0, b"a")), (2, Drop(1)))
    assert (index.chunks(1), index.living_bytes) == ([], 0)


def test_a_segment_is_needed_for_bodies_states_and_chunks_that_live() -> None:
    records: list[tuple[int, AnyRecord]] = [
        (1, Chunk(1, 0, b"piece")),
        (2, PUT),
        (3, Amend(1, b"a")),
        (4, Amend(1, b"b")),
        (5, Drop(7)),
    ]
    assert needed(index_of(*records), 1, 2, 3, 4, 5) == [1, 2, 4]


def test_a_drop_is_needed_while_the_segment_of_its_put_is_there() -> None:
    index = index_of((1, PUT), (2, Drop(1)))
    assert needed(index, 1, 2) == [2]
    assert needed(index, 2) == []


def test_a_put_that_replaces_another_guards_it_like_a_drop() -> None:
    index = index_of((1, PUT), (2, PUT), (3, Drop(1)))
    assert needed(index, 1, 2, 3) == [2, 3]
    assert needed(index, 2, 3) == [3]


def test_who_ends_a_key_guards_every_older_copy_when_the_newest_goes() -> None:
    index = index_of((1, PUT), (2, PUT), (3, Drop(1)))
    index.forget_segment(2)
    assert needed(index, 1, 3) == [3]
    index.forget_segment(1)
    assert needed(index, 3) == []


def test_a_copy_of_a_drop_guards_what_the_drop_guarded() -> None:
    index = index_of((1, PUT), (2, Drop(1)), (3, Drop(1)))
    index.inherit(3, 2)
    index.forget_segment(2)
    assert needed(index, 1, 3) == [3]


@pytest.mark.parametrize(
    ("frames", "at", "record", "is_needed"),
    [
        ([(1, PUT)], 0, PUT, True),
        ([(1, PUT), (2, PUT)], 0, PUT, False),
        ([(1, PUT), (2, PUT)], 1, PUT, True),
        ([(1, PUT), (1, Drop(1))], 0, PUT, False),
        ([(1, PUT), (2, Amend(1, b"x"))], 1, Amend(1, b"x"), True),
        ([(1, PUT), (2, Amend(1, b"x")), (3, Amend(1, b"y"))], 1, Amend(1, b"x"), False),
        ([(1, PUT), (2, Amend(1, b"x")), (3, PUT)], 1, Amend(1, b"x"), False),
        ([(1, Amend(1, b"x"))], 0, Amend(1, b"x"), False),
        ([(1, PUT), (2, Drop(1))], 1, Drop(1), True),
        ([(1, PUT), (1, Drop(1))], 1, Drop(1), False),
        ([(1, Chunk(1, 2, b"x"))], 0, Chunk(1, 2, b"x"), True),
        ([(1, Chunk(1, 2, b"x")), (1, Chunk(1, 2, b"x"))], 0, Chunk(1, 2, b"x"), False),
        ([(1, Chunk(1, 2, b"x")), (1, Drop(1))], 0, Chunk(1, 2, b"x"), False),
    ],
)
def test_what_the_log_must_not_lose(
    frames: list[tuple[int, AnyRecord]], at: int, record: AnyRecord, is_needed: bool
) -> None:
    place = Place(frames[at][0], 1024 + 100 * at, 100)
    assert index_of(*frames).needs(place, record) is is_needed


def test_living_bytes_are_zero_again_after_everything_is_dropped() -> None:
    index = Index()
    for key in range(100):
        place = Place(key % 7 + 1, 1024, 100)
        index.apply(place, [Chunk(key, 0, b"x" * key), Put(key, b"s" * key, b"h", b"b", 1)])
        index.apply(Place(8, 1024, 100), [Amend(key, b"s"), Amend(key, b"longer")])
        index.apply(place, [Chunk(key, 0, b"again")])
    assert index.living_bytes > 0
    index.apply(Place(9, 1024, 100), [Drop(key) for key in range(100)])
    assert index.living_bytes == 0
    assert [index.living_in(segment) for segment in range(10)] == [0] * 10


def test_a_key_costs_one_small_bytes_object() -> None:
    index = index_of((1, Put(1, b"s" * 60, b"h" * 1000, b"b" * 1000)))
    before = sys.getallocatedblocks()
    for key in range(2, 10_002):
        index.apply(Place(1, 1024, 100), [Put(key, b"s" * 60, b"", b"")])
    # The int, the bytes, and what the dict's growth costs in blocks.
    assert sys.getallocatedblocks() - before < 2.1 * 10_000
