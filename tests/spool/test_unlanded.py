"""unlanded.py: of all that is on its way into the log, what counts of each key."""

from spool import Amend, Chunk, Drop, Put
from spool.entry import Entry
from spool.frame import Record
from spool.unlanded import Unlanded


def entry(*batch: Record, waits: bool = False, copies: bool = False) -> Entry:
    return Entry(batch, waits=waits, kept=not waits, copies=copies)


def test_the_last_record_of_a_key_counts_and_the_first_to_land_uncovers_nothing() -> None:
    unlanded = Unlanded()
    first, second = entry(Amend(1, b"first")), entry(Amend(1, b"second"), Drop(2))
    unlanded.add(first)
    unlanded.add(second)
    assert unlanded.newest(1) == Amend(1, b"second")
    assert unlanded.newest(2) == Drop(2)
    unlanded.discard(first)
    assert unlanded.newest(1) == Amend(1, b"second")
    unlanded.discard(second)
    assert (unlanded.newest(1), unlanded.newest(2), len(unlanded)) == (None, None, 0)


def test_one_that_is_refused_uncovers_the_one_before() -> None:
    unlanded = Unlanded()
    first, second = entry(Amend(1, b"first")), entry(Amend(1, b"second"), waits=True)
    unlanded.add(first)
    unlanded.add(second)
    unlanded.discard(second)
    assert unlanded.newest(1) == Amend(1, b"first")


def test_a_put_can_be_read_until_it_lands_or_its_key_ends() -> None:
    unlanded = Unlanded()
    put = Put(1, b"state", b"head", b"body")
    unlanded.add(entry(put))
    unlanded.add(entry(Amend(1, b"newer")))
    assert (unlanded.put(1), unlanded.newest(1)) == (put, Amend(1, b"newer"))
    unlanded.add(entry(Drop(1)))
    assert unlanded.put(1) is None


def test_nobody_knows_a_key_whose_put_is_waited_for_but_those_of_copies() -> None:
    unlanded = Unlanded()
    unlanded.add(entry(Put(1, b"new", b"", b""), Chunk(3, 0, b"piece"), waits=True))
    copy = entry(Put(2, b"old", b"", b""), waits=True, copies=True)
    unlanded.add(copy)
    assert (unlanded.newest(1), unlanded.newest(3)) == (None, None)
    # What is noted of it now must come behind the copy, which says something older.
    assert unlanded.gathered([Drop(2)])
    unlanded.discard(copy)
    assert not unlanded.gathered([Drop(2)])


def test_what_was_noted_has_been_written() -> None:
    unlanded = Unlanded()
    noted = entry(Amend(1, b"noted"))
    noted.noted = True
    unlanded.add(noted)
    assert unlanded.newest(1) == Amend(1, b"noted")
    assert not unlanded.gathered([Drop(1)])


def test_what_was_put_beside_a_state_is_said_again_with_the_next_as_it_is_by_now() -> None:
    unlanded = Unlanded()
    report, other = Put(7, b"due", b"head", b"report"), Put(8, b"due", b"head", b"other")
    first, second = entry(Amend(1, b"told"), report), entry(Amend(1, b"told twice"), other)
    unlanded.add(first)
    assert unlanded.beside([Amend(2, b"of another"), Amend(7, b"of the report")]) == []
    assert unlanded.beside([Amend(1, b"newer")]) == [report]
    unlanded.add(entry(Amend(7, b"held")))
    unlanded.add(second)
    assert unlanded.beside([Drop(1)]) == [report._replace(state=b"held"), other]
    unlanded.add(entry(Drop(7)))
    assert unlanded.beside([Drop(1)]) == [other]
    unlanded.discard(first)
    unlanded.discard(second)
    assert unlanded.beside([Drop(1)]) == []


def test_what_is_said_again_by_a_copy_is_not_put_beside_it() -> None:
    unlanded = Unlanded()
    unlanded.add(entry(Amend(1, b"told"), Put(7, b"", b"", b""), copies=True, waits=True))
    assert unlanded.beside([Drop(1)]) == []
