"""What every Store must do: one suite over all of them.

`again` gives the store after a restart, as far as it survives one: a MemoryStore is the same
one, a SpoolStore is opened anew on what the old one left on disk.
"""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spool
from gwrelay.errors import StoreDamaged, StoreFailed, StoreFull
from gwrelay.message.envelope import Envelope, Message, Recipient, message_name
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.store import (
    Doubt,
    Host,
    NewMessage,
    Open,
    State,
    Store,
    decode_message,
    decode_state,
    encode_message,
    encode_state,
    first_state,
)
from spool.files import Files
from support.faulty_files import Crash, FaultyDisk
from support.mail import CONTENT, envelope, loaded

ENVELOPE = Envelope(
    "späher@a.test",
    (
        Recipient("b@b.test", "SUCCESS,FAILURE", "rfc822;b+2Bx@b.test"),
        Recipient('"a b"@c.test', "NEVER"),
        Recipient("d@B.test."),
    ),
    "8BITMIME",
    True,
    "HDRS",
    "env+2Bid",
)


class Stand(NamedTuple):
    store: Store
    again: Callable[[], Store]


@pytest.fixture(params=["memory", "spool", "reopened spool"])
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stand]:
    if request.param == "memory":
        memory = MemoryStore()
        yield Stand(memory, lambda: memory)
        return
    opened = [SpoolStore(open_spool(tmp_path / "spool"))]

    def again() -> Store:
        if request.param == "reopened spool":
            opened[-1].close()
            opened.append(SpoolStore(open_spool(tmp_path / "spool")))
        return opened[-1]

    yield Stand(opened[0], again)
    opened[-1].close()


def new_message(
    store: Store,
    content: bytes = CONTENT,
    about: Envelope = ENVELOPE,
    pieces: int = 0,
    now: float = 1000.25,
) -> NewMessage:
    message = Message(store.next_id(), now, len(content), about)
    return NewMessage(message, first_state(message), content, pieces)


def accept(store: Store, content: bytes = CONTENT) -> NewMessage:
    new = new_message(store, content)
    store.accept(new)
    return new


def test_ids_grow(stand: Stand) -> None:
    ids = [stand.store.next_id() for _ in range(100)]
    accept(stand.store)
    ids.append(stand.again().next_id())
    assert ids == sorted(set(ids))


def test_ids_are_of_all_messages_oldest_first(stand: Stand) -> None:
    assert list(stand.store.ids()) in ([], [[]])
    accepted = [accept(stand.store).message.id for _ in range(250)]
    stand.store.settle(accepted[100], None, None)
    stand.store.flush()
    found = [message_id for some in stand.store.ids() for message_id in some]
    assert found == accepted[:100] + accepted[101:]


def test_an_accepted_message_is_given_back_as_it_was(stand: Stand) -> None:
    new = accept(stand.store)
    store = stand.again()
    assert store.message(new.message.id) == new.message
    assert b"".join(store.content(new.message.id)) == CONTENT
    assert loaded(store) == [(new.message.id, new.state)]


def test_messages_are_loaded_oldest_first(stand: Stand) -> None:
    ids = [accept(stand.store).message.id for _ in range(20)]
    assert [message_id for message_id, _ in loaded(stand.again())] == ids


def test_an_empty_content_is_a_content(stand: Stand) -> None:
    new = accept(stand.store, b"")
    assert b"".join(stand.again().content(new.message.id)) == b""


def test_pieces_come_first_and_in_order(stand: Stand) -> None:
    new = new_message(stand.store, b"end", pieces=3)
    for number, piece in enumerate([b"one ", b"two ", b"three "]):
        stand.store.add_piece(new.message.id, number, piece)
    stand.store.accept(new)
    assert b"".join(stand.again().content(new.message.id)) == b"one two three end"


def test_pieces_of_two_messages_may_come_in_turn(stand: Stand) -> None:
    one, other = new_message(stand.store, b"1", pieces=2), new_message(stand.store, b"2", pieces=2)
    for number in range(2):
        stand.store.add_piece(one.message.id, number, b"one ")
        stand.store.add_piece(other.message.id, number, b"two ")
    stand.store.accept(other)
    stand.store.accept(one)
    store = stand.again()
    assert b"".join(store.content(one.message.id)) == b"one one 1"
    assert b"".join(store.content(other.message.id)) == b"two two 2"


def test_pieces_alone_are_no_message(stand: Stand) -> None:
    message_id = stand.store.next_id()
    stand.store.add_piece(message_id, 0, b"half of it")
    stand.store.flush()
    assert loaded(stand.again()) == []


def test_discarded_pieces_are_gone(stand: Stand) -> None:
    message_id = stand.store.next_id()
    stand.store.add_piece(message_id, 0, b"half of it")
    stand.store.discard(message_id)
    stand.store.flush()
    store = stand.again()
    assert loaded(store) == []
    with pytest.raises(StoreFailed, match="is gone"):
        store.message(message_id)


def test_settling_replaces_the_state_and_nothing_else(stand: Stand) -> None:
    new, other = accept(stand.store), accept(stand.store)
    later = new.state._replace(open=(Open("b.test", (2,), 7, 12345.5),))
    stand.store.settle(new.message.id, later, None)
    stand.store.flush()
    store = stand.again()
    assert dict(loaded(store)) == {new.message.id: later, other.message.id: other.state}
    assert store.message(new.message.id) == new.message
    assert b"".join(store.content(new.message.id)) == CONTENT


def test_the_state_is_the_newest_whether_durable_or_not(stand: Stand) -> None:
    new = accept(stand.store)
    assert stand.store.state(new.message.id) == new.state
    later = new.state._replace(open=(Open("b.test", (2,), 7, 12345.5),))
    stand.store.settle(new.message.id, later, None)
    assert stand.store.state(new.message.id) == later
    noted = new.state._replace(
        open=(Open("b.test", (2,), 8, 22345.5, "", Doubt(Host("mx.test", "192.0.2.1"), 3.5)),)
    )
    stand.store.note(new.message.id, noted)
    assert stand.store.state(new.message.id) == noted
    store = stand.again()
    assert store.state(new.message.id) == noted
    assert store.note_at_once(new.message.id, later)
    assert store.state(new.message.id) == later
    store.flush()
    store = stand.again()
    assert store.state(new.message.id) == later
    store.settle(new.message.id, None, None)
    assert store.state(new.message.id) is None
    assert store.state(12345) is None


def test_settling_with_no_state_drops_the_message(stand: Stand) -> None:
    new, other = accept(stand.store), accept(stand.store)
    stand.store.settle(new.message.id, None, None)
    stand.store.flush()
    store = stand.again()
    assert [message_id for message_id, _ in loaded(store)] == [other.message.id]
    with pytest.raises(StoreFailed, match="is gone"):
        store.message(new.message.id)
    with pytest.raises(StoreFailed, match="is gone"):
        list(store.content(new.message.id))


@pytest.mark.parametrize("dropped", [True, False])
def test_a_report_comes_with_the_settlement_that_causes_it(stand: Stand, dropped: bool) -> None:
    new = accept(stand.store)
    report = new_message(stand.store, b"it failed", envelope("sender@a.test", reverse_path=""))
    later = None if dropped else new.state._replace(open=new.state.open[1:])
    stand.store.settle(new.message.id, later, report)
    stand.store.flush()
    store = stand.again()
    expected = {report.message.id: report.state}
    if later is not None:
        expected[new.message.id] = later
    assert dict(loaded(store)) == expected
    assert store.message(report.message.id) == report.message
    assert b"".join(store.content(report.message.id)) == b"it failed"


def test_a_message_that_never_was_cannot_be_read(stand: Stand) -> None:
    with pytest.raises(StoreFailed, match="is gone"):
        stand.store.message(12345)
    with pytest.raises(StoreFailed, match="is gone"):
        list(stand.store.content(12345))


# -- the words in the records --------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TIMES = st.floats(min_value=0, max_value=4e9)
RECIPIENTS = st.one_of(
    st.lists(st.integers(0, 1000), min_size=1, max_size=5, unique=True),
    st.integers(1, 1000).map(range),
).map(tuple)
HOSTS = st.builds(Host, NAMES, NAMES, st.integers(0, 65535))
PARTS = st.builds(
    Open,
    NAMES,
    RECIPIENTS,
    st.integers(0, 1000),
    TIMES,
    st.one_of(st.just(""), NAMES),
    st.one_of(st.none(), st.builds(Doubt, HOSTS, TIMES, st.booleans())),
    st.booleans(),
)


STATES = st.builds(
    State, TIMES, st.booleans(), st.lists(PARTS, max_size=4).map(tuple), st.integers(0, 32_767)
)


@given(STATES)
def test_a_state_survives_being_encoded(state: State) -> None:
    decoded = decode_state(encode_state(state))
    assert decoded == state
    # Equal tuples need not be NamedTuples, and somebody will ask them for a host.
    assert [p.doubt and p.doubt.host.address for p in decoded.open] == [
        p.doubt and p.doubt.host.address for p in state.open
    ]


@pytest.mark.parametrize(
    ("part", "size"),
    [
        (Open("b.test", (0,), 0, 1000.25), 20),
        (Open("b.test", tuple(range(1000)), 0, 1000.25), 22),
        (Open("b.test", (0,), 3, 2000.5), 30),
        (Open("b.test", (2,), 3, 2000.5), 31),
        (Open("b.test", (0,), 3, 2000.5, "", Doubt(Host("mx", "192.0.2.1", 25), 5.5)), 54),
        (Open("b.test", (0,), 3, 2000.5, "", Doubt(Host("mx", "192.0.2.1", 25), 5.5, False)), 55),
        (Open("b.test", (0,), 3, 2000.5, warned=True), 30),
    ],
    ids=["new", "to a thousand", "deferred", "one of three", "in doubt", "untold", "warned"],
)
def test_a_state_is_as_small_as_it_says(part: Open, size: int) -> None:
    """It is kept in memory for each message that waits."""
    assert len(encode_state(State(1000.25, False, (part,)))) == size
    assert len(encode_state(State(1000.25, False, (part,), 32_767))) == size + 2


@pytest.mark.parametrize(
    ("written", "part"),
    [
        (("b.test", 1), Open("b.test", (0,), 0, 5.0)),
        (("b.test", 1, 0, 65.0), Open("b.test", (0,), 0, 65.0)),
        (("b.test", (0, 2), 4, 65.0), Open("b.test", (0, 2), 4, 65.0)),
        (("b.test", 2, 4, 65.0, "why"), Open("b.test", (0, 1), 4, 65.0, "why")),
        (
            ("b.test", 1, 1, 65.0, "", "mx", "192.0.2.1", 25, 5.5),
            Open("b.test", (0,), 1, 65.0, "", Doubt(Host("mx", "192.0.2.1", 25), 5.5)),
        ),
    ],
)
def test_what_was_written_before_there_were_warnings_is_not_warned(
    written: tuple[object, ...], part: Open
) -> None:
    assert decode_state(msgpack.packb((5.0, False, written))) == State(5.0, False, (part,))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x90",
        b"\x93\x01\xc2\x91\x01",
        b"\x93\x01\xc2\x94\xa1b\x01\xa1x\x01",
        b"\xc1",
        b"x" * 30,
    ],
)
def test_a_state_that_makes_no_sense_is_damaged(packed: bytes) -> None:
    with pytest.raises(StoreDamaged, match="makes no sense"):
        decode_state(packed)


@pytest.mark.parametrize("packed", [b"", b"\x90", b"\x94\x01\x02\x03\x04", b"\xc1", b"x" * 30])
def test_an_envelope_that_makes_no_sense_is_damaged(packed: bytes) -> None:
    with pytest.raises(StoreDamaged, match="makes no sense"):
        decode_message(packed)


@given(
    st.builds(
        Message,
        st.integers(0, 2**63),
        TIMES,
        st.integers(0, 2**40),
        st.builds(
            Envelope,
            NAMES,
            st.lists(st.builds(Recipient, NAMES, NAMES, NAMES), max_size=4).map(tuple),
            NAMES,
            st.booleans(),
            NAMES,
            NAMES,
        ),
    )
)
def test_a_message_survives_being_encoded(message: Message) -> None:
    decoded = decode_message(encode_message(message))
    assert decoded == message
    # Equal tuples need not be NamedTuples, and somebody will ask them for a domain.
    assert [r.domain for r in decoded.envelope.recipients] == [
        r.domain for r in message.envelope.recipients
    ]


def test_the_first_state_has_one_part_for_each_destination_due_at_once() -> None:
    message = Message(1, 50.5, 3, ENVELOPE)
    assert first_state(message) == State(
        50.5, False, (Open("b.test", (0, 2), 0, 50.5), Open("c.test", (1,), 0, 50.5))
    )


def test_a_message_without_reverse_path_is_a_bounce() -> None:
    assert first_state(Message(1, 0.0, 3, envelope("b@b.test", reverse_path=""))).is_bounce


# -- what a disk does to it ----------------------------------------------------------------


def faulty(path: Path, disk: FaultyDisk) -> SpoolStore:
    return SpoolStore(open_spool(path, files=disk.files))


def test_a_full_disk_is_store_full_and_nothing_is_kept(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    store = faulty(tmp_path, disk)
    kept = accept(store)
    disk.room = 0
    with pytest.raises(StoreFull):
        accept(store)
    disk.room = None
    store.close()
    assert [n for n, _ in loaded(faulty(tmp_path, disk))] == [kept.message.id]


@pytest.mark.parametrize("fault", ["write_error", "sync_errors"])
def test_a_failing_disk_is_store_failed_and_nothing_is_kept(tmp_path: Path, fault: str) -> None:
    disk = FaultyDisk(tmp_path)
    store = faulty(tmp_path, disk)
    kept = accept(store)
    setattr(disk, fault, errno.EIO if fault == "write_error" else [errno.EIO] * 4)
    with pytest.raises(StoreFailed):
        accept(store)
    disk.write_error, disk.sync_errors = 0, []
    after = accept(store)
    store.close()
    ids = [n for n, _ in loaded(faulty(tmp_path, disk))]
    assert ids == [kept.message.id, after.message.id]


def test_a_full_disk_refuses_no_settlement_and_gets_it_later(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    store = faulty(tmp_path, disk)
    done, waits = accept(store), accept(store)
    disk.room = 0
    later = waits.state._replace(open=waits.state.open[:1])
    report = new_message(store, b"it failed", envelope("sender@a.test", reverse_path=""))
    store.settle(done.message.id, None, report)
    store.settle(waits.message.id, later, None)
    with pytest.raises(StoreFull):
        store.flush()
    disk.room = None
    store.flush()
    store.close()
    assert dict(loaded(faulty(tmp_path, disk))) == {
        waits.message.id: later,
        report.message.id: report.state,
    }


def test_a_settlement_and_its_report_are_both_there_after_a_crash_or_neither(
    tmp_path: Path,
) -> None:
    seen = set()
    for calls in range(3):
        for seed in range(40):
            directory = tmp_path / f"{calls}-{seed}"
            directory.mkdir()
            disk = FaultyDisk(directory, seed)
            store = faulty(directory, disk)
            new = accept(store)
            # Several sectors: a power loss may leave the first of them without the others.
            report = new_message(store, b"it failed" * 500, envelope("s@a.test", reverse_path=""))
            disk.calls_left = calls
            try:
                store.settle(new.message.id, None, report)
                store.flush()
            except Crash:
                pass
            disk.crash()
            ids = [n for n, _ in loaded(faulty(directory, disk))]
            assert ids in ([new.message.id], [report.message.id])
            seen.update(ids == [new.message.id] for _ in ids)
    assert seen == {True, False}, "the crash came always before, or always after"


def test_an_unreadable_message_fails_alone(tmp_path: Path) -> None:
    store = SpoolStore(open_spool(tmp_path / "spool"))
    damaged, whole = accept(store, b"x" * 5000), accept(store, b"y" * 5000)
    for segment in (tmp_path / "spool").glob("*.segment"):
        segment.write_bytes(segment.read_bytes().replace(b"x" * 5000, b"x" * 4999 + b"z"))
    with pytest.raises(StoreDamaged):
        list(store.content(damaged.message.id))
    with pytest.raises(StoreDamaged):
        store.message(damaged.message.id)
    assert b"".join(store.content(whole.message.id)) == b"y" * 5000
    store.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_disk_that_fails_to_read_damages_nothing(tmp_path: Path, number: int) -> None:
    class FailingFiles(Files):
        fails = False

        def read(self, fd: int, offset: int, count: int) -> bytes:
            if self.fails:
                raise OSError(number, "cannot be read")
            return super().read(fd, offset, count)

    store = SpoolStore(open_spool(tmp_path / "spool", files=FailingFiles))
    new = accept(store)
    FailingFiles.fails = True
    with pytest.raises(StoreFailed) as failed:
        store.message(new.message.id)
    assert not isinstance(failed.value, StoreDamaged)
    FailingFiles.fails = False
    assert store.message(new.message.id) == new.message
    store.close()


def test_a_state_that_makes_no_sense_keeps_no_other_message_from_loading(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_spool(tmp_path / "spool")
    store = SpoolStore(log)
    before, odd, after = (accept(store) for _ in range(3))
    log.write([spool.Amend(odd.message.id, b"of another version")])
    assert [n for n, _ in loaded(store)] == [before.message.id, after.message.id]
    assert message_name(odd.message.id) in caplog.text
    store.close()


def test_a_spool_that_somebody_has_is_store_failed(tmp_path: Path) -> None:
    store = SpoolStore(open_spool(tmp_path / "spool"))
    with pytest.raises(StoreFailed, match="in use"):
        open_spool(tmp_path / "spool")
    store.close()


def test_a_closed_spool_is_store_failed(tmp_path: Path) -> None:
    store = SpoolStore(open_spool(tmp_path / "spool"))
    new = accept(store)
    store.close()
    for call in (
        lambda: store.message(new.message.id),
        lambda: store.settle(new.message.id, None, None),
        store.flush,
    ):
        with pytest.raises(StoreFailed):
            call()


def test_a_put_whose_pieces_are_missing_is_refused(tmp_path: Path) -> None:
    store = SpoolStore(open_spool(tmp_path / "spool"))
    store.add_piece(1, 0, b"one")
    message = Message(1, 0.0, 3, ENVELOPE)
    with pytest.raises(StoreFailed):
        store.accept(NewMessage(message, first_state(message), b"", pieces=2))
    assert loaded(store) == []
    store.close()


def test_options_of_the_spool_are_passed_on(tmp_path: Path) -> None:
    log = open_spool(tmp_path / "spool", clock=lambda: 5.0)
    assert isinstance(log, spool.Spool)
    assert SpoolStore(log).next_id() == 5_000_000
    log.close()
