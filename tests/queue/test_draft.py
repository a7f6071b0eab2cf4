"""A message in the making."""

import errno
from pathlib import Path

import pytest

from gwrelay.errors import StoreFailed, StoreFull
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from support.faulty_files import FaultyDisk
from support.mail import CONTENT, envelope


def test_a_small_message_is_accepted_whole() -> None:
    queue = Queue(MemoryStore(), clock=lambda: 100.0)
    draft = queue.draft()
    assert draft.is_empty
    message = draft.accept(envelope("b@b.test"), CONTENT)
    assert message == (draft.id, 100.0, len(CONTENT), envelope("b@b.test"))
    assert b"".join(queue.get_content(draft.id)) == CONTENT


def test_the_size_of_a_message_in_pieces_is_that_of_all_of_it() -> None:
    queue = Queue(MemoryStore())
    draft = queue.draft()
    draft.add(b"12345")
    assert not draft.is_empty
    draft.add(b"678")
    assert draft.accept(envelope("b@b.test"), b"90").size_bytes == 10
    assert b"".join(queue.get_content(draft.id)) == b"1234567890"


def test_an_abandoned_draft_leaves_nothing_behind(tmp_path: Path) -> None:
    log = open_spool(tmp_path / "spool")
    queue = Queue(SpoolStore(log))
    draft = queue.draft()
    draft.add(b"half of it")
    draft.abandon()
    log.sync()
    assert log.living_bytes == 0
    assert not queue.has_waiting()
    queue.close()


def test_a_draft_never_accepted_is_gone_after_a_restart(tmp_path: Path) -> None:
    queue = Queue.open(tmp_path / "spool")
    queue.draft().add(b"half of it")
    queue.close()
    queue = Queue.open(tmp_path / "spool")
    assert not queue.has_waiting()
    queue.close()


@pytest.mark.parametrize(
    ("room", "write_error", "error"), [(0, 0, StoreFull), (None, errno.EIO, StoreFailed)]
)
def test_what_cannot_be_made_durable_is_neither_kept_nor_delivered(
    tmp_path: Path, room: int | None, write_error: int, error: type[Exception]
) -> None:
    disk = FaultyDisk(tmp_path / "spool")
    queue = Queue(SpoolStore(open_spool(disk.path, files=disk.files)))
    disk.room, disk.write_error = room, write_error
    with pytest.raises(error):
        queue.add_message(envelope("b@b.test"), CONTENT)
    draft = queue.draft()
    draft.add(b"half of it")
    with pytest.raises(error):
        draft.accept(envelope("b@b.test"), CONTENT)
    draft.abandon()
    assert not queue.has_waiting()
    assert queue.get_waiting() == []
    disk.room, disk.write_error = None, 0
    kept = queue.add_message(envelope("b@b.test"), CONTENT)
    assert [d.message_id for d in queue.get_waiting()] == [kept]
    queue.close()
    queue = Queue.open(disk.path)
    assert [d.message_id for d in queue.get_waiting()] == [kept]
    queue.close()


def test_a_piece_that_the_store_refuses_is_discarded_with_its_draft() -> None:
    """A store may keep word of what it refused, until it is told that nobody asks for it."""

    class FullStore(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.refused: set[int] = set()

        def add_piece(self, message_id: int, number: int, piece: bytes) -> None:
            self.refused.add(message_id)
            raise StoreFull("no room")

        def discard(self, message_id: int) -> None:
            self.refused.discard(message_id)

    store = FullStore()
    draft = Queue(store).draft()
    with pytest.raises(StoreFull):
        draft.add(b"half of it")
    draft.abandon()
    assert store.refused == set()
