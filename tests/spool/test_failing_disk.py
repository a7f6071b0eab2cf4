"""log.py on a disk that is full, or fails: who is told what, and what a restart finds."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spool import Amend, Chunk, Drop, Put, Spool, SpoolFailed, SpoolFull
from spool.segment import name_of
from support.faulty_files import FaultyDisk, Rounds


@pytest.fixture
def disk(tmp_path: Path) -> FaultyDisk:
    return FaultyDisk(tmp_path / "spool")


def opened(disk: FaultyDisk, **options: int) -> Spool:
    return Spool(disk.path, files=disk.files, **options)  # type: ignore[arg-type]


def after_crash(disk: FaultyDisk) -> dict[int, bytes]:
    """What a start after a power loss finds."""
    disk.crash()
    fresh = Spool(disk.path)
    found = dict(fresh.items())
    fresh.close()
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_failed_sync_refuses_its_batch_for_good(tmp_path: Path, seed: int) -> None:
    disk = FaultyDisk(tmp_path / "spool", seed)
    spool = opened(disk)
    spool.write([Put(1, b"before", b"", b"x" * 3000)])
    disk.sync_errors = [errno.EIO]
    with pytest.raises(SpoolFailed):
        spool.write([Put(2, b"refused", b"", b"x" * 3000)])
    # Told only when a crash can no longer bring it back.
    assert after_crash(disk) == {1: b"before"}


class Killed(BaseException):
    """As gevent's GreenletExit, thrown into whoever waits in a sync."""


@pytest.mark.parametrize("seed", range(10))
def test_a_writer_killed_in_its_sync_leaves_nothing_behind(tmp_path: Path, seed: int) -> None:
    """Others may have waited for the same sync, and are told it failed."""
    disk = FaultyDisk(tmp_path / "spool", seed)
    spool = opened(disk)
    spool.write([Put(1, b"before", b"", b"x" * 3000)])
    disk.sync_errors = [Killed()]
    with pytest.raises(Killed):
        spool.write([Put(2, b"refused", b"", b"x" * 3000)])
    assert after_crash(disk) == {1: b"before"}


def test_writing_goes_on_in_a_fresh_segment_after_a_failed_sync(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"before", b"", b"")])
    disk.sync_errors = [errno.EIO]
    with pytest.raises(SpoolFailed):
        spool.write([Put(2, b"refused", b"", b"")])
    spool.write([Put(3, b"after", b"", b"body")])
    assert list(spool.items()) == [(1, b"before"), (3, b"after")]
    assert disk.second_syncs == 0
    assert spool.counters.failed_syncs == 1
    spool.close()
    assert disk.second_syncs == 0
    spool = Spool(disk.path)
    assert list(spool.items()) == [(1, b"before"), (3, b"after")]
    assert spool.counters.lost_frames == 0
    spool.close()


def test_a_restart_does_not_read_past_the_seal_of_a_failed_segment(disk: FaultyDisk) -> None:
    """Also when all that was refused is there, whole, to be read."""
    spool = opened(disk)
    spool.write([Put(1, b"before", b"", b"")])
    disk.sync_errors, disk.cut_error = [errno.EIO], errno.EROFS
    with pytest.raises(SpoolFailed):
        spool.write([Put(2, b"refused", b"", b"refused")])
    spool.close()
    assert b"refused" in (disk.path / name_of(1)).read_bytes()
    for _ in range(4):
        spool = opened(disk, segment_bytes=1100)
        assert dict(spool.items()) == {1: b"before"}
        # Segments come and go; the one with the seal stays while it is needed.
        for _ in range(3):
            spool.write([Put(9, b"", b"", b"x" * 500), Drop(9)])
        spool.close()


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS])
def test_a_write_that_fails_for_another_reason_than_room_is_a_failure(
    disk: FaultyDisk, error: int
) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"before", b"", b"")])
    disk.write_error = error
    for _ in range(2):
        with pytest.raises(SpoolFailed):
            spool.write([Put(2, b"refused", b"", b"")])
    disk.write_error = 0
    spool.write([Put(3, b"after", b"", b"")])
    assert after_crash(disk) == {1: b"before", 3: b"after"}


def test_settlements_of_a_failed_batch_are_written_again(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"one", b"", b""), Put(2, b"two", b"", b"")])
    spool.write([Drop(1)], wait=False)
    spool.write([Amend(2, b"amended"), Put(3, b"report", b"", b"")], wait=False)
    disk.sync_errors = [errno.EIO]
    with pytest.raises(SpoolFailed):
        spool.write([Put(4, b"refused", b"", b"")])
    assert dict(spool.items()) == {2: b"amended", 3: b"report"}
    assert after_crash(disk) == {2: b"amended", 3: b"report"}


def test_notes_that_a_failed_sync_took_are_written_again(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"one", b"", b""), Put(2, b"two", b"", b"")])
    spool.note([Amend(1, b"noted")])
    spool.note([Amend(2, b"noted")])
    spool.write([Drop(2)], wait=False)
    disk.sync_errors = [errno.EIO]
    with pytest.raises(SpoolFailed):
        spool.write([Put(3, b"refused", b"", b"")])
    assert dict(spool.items()) == {1: b"noted"}
    assert spool.counters.failed_syncs == 1
    assert after_crash(disk) == {1: b"noted"}


def test_a_segment_that_ends_takes_its_notes_along(disk: FaultyDisk) -> None:
    spool = opened(disk, segment_bytes=1400)
    spool.write([Put(1, b"one", b"", b"")])
    spool.note([Amend(1, b"noted")])
    spool.write([Put(2, b"two", b"", b"x" * 400)])
    assert spool.segments == 2
    assert after_crash(disk) == {1: b"noted", 2: b"two"}


def test_a_note_for_which_there_is_no_room_rides_with_a_later_commit(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"one", b"", b"")])
    disk.room = 0
    assert not spool.note([Amend(1, b"noted")])
    assert spool.state(1) == b"noted"
    with pytest.raises(SpoolFull):
        spool.sync()
    disk.room = None
    spool.sync()
    assert after_crash(disk) == {1: b"noted"}


def test_a_note_does_not_go_ahead_of_what_the_disk_did_not_take(disk: FaultyDisk) -> None:
    """Though there is room for it, in a segment that was filled with zeros before."""
    spool = opened(disk, segment_bytes=3000)
    spool.write([Put(1, b"", b"", b"")])
    spool.run(Rounds(1))
    spool.write([Put(2, b"", b"", b"")], wait=False)
    disk.room = 0
    spool.write([Put(3, b"first", b"", b"x" * 2500)], wait=False)
    assert not spool.note([Amend(3, b"noted")])
    disk.room = None
    spool.sync()
    states = {1: b"", 2: b"", 3: b"noted"}
    assert dict(spool.items()) == states
    assert after_crash(disk) == states


def test_a_full_disk_still_takes_settlements_where_a_segment_was_made_ahead(
    disk: FaultyDisk,
) -> None:
    """The first segment was not, and has nothing set aside for them."""
    spool = opened(disk)
    for key in (1, 2, 3):
        spool.write([Put(key, b"first", b"", b"x" * 500)])
    spool.run(Rounds(1))
    disk.room = 0
    with pytest.raises(SpoolFull):
        spool.write([Put(4, b"refused", b"", b"x" * 500)])
    assert spool.segments == 1, "mail alone uses up no segment"
    spool.write([Drop(1)], wait=False)
    spool.write([Amend(2, b"newer")], wait=False)
    spool.sync()
    spool.note([Amend(3, b"noted")])
    spool.sync()
    disk.room = 0
    assert after_crash(disk) == {2: b"newer", 3: b"noted"}


def test_settlements_wait_while_the_disk_fails_on_and_on(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"one", b"", b"")])
    spool.write([Amend(1, b"newer")], wait=False)
    for _ in range(5):
        disk.sync_errors = [errno.EIO] * 2
        with pytest.raises(SpoolFailed):
            spool.sync()
    assert dict(spool.items()) == {1: b"one"}
    spool.write([Amend(1, b"newest")], wait=False)
    spool.sync()
    assert disk.second_syncs == 0
    assert after_crash(disk) == {1: b"newest"}


def test_many_failures_leave_no_pile_of_segments(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"one", b"", b"")])
    for _ in range(30):
        disk.sync_errors = [errno.EIO] * 2
        with pytest.raises(SpoolFailed):
            spool.write([Put(2, b"refused", b"", b"")])
    spool.close()
    spool = opened(disk)
    assert spool.segments <= 3
    assert dict(spool.items()) == {1: b"one"}
    spool.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_seal_that_could_not_be_written_is_written_with_the_next_sync(
    tmp_path: Path, seed: int
) -> None:
    disk = FaultyDisk(tmp_path / "spool", seed)
    spool = opened(disk)
    spool.write([Put(1, b"before", b"", b"x" * 3000)])
    disk.sync_errors = [errno.EIO] * 2
    with pytest.raises(SpoolFailed):
        spool.write([Put(2, b"refused", b"", b"x" * 3000)])
    spool.sync()
    assert after_crash(disk) == {1: b"before"}


@pytest.mark.parametrize("seed", range(40))
def test_a_segment_that_failed_at_once_stays_void_whatever_is_left_of_it(
    tmp_path: Path, seed: int
) -> None:
    """Its header may be torn and its refused frame whole: only the seal tells."""
    disk = FaultyDisk(tmp_path / "spool", seed)
    spool = opened(disk)
    disk.sync_errors = [errno.EIO]
    with pytest.raises(SpoolFailed):
        spool.write([Put(1, b"refused", b"", b"x" * 10)])
    spool.write([Put(2, b"after", b"", b"")])
    disk.crash()
    # The segment with the seal is soon the only thing that keeps the refused frame away.
    spool = opened(disk, segment_bytes=1100)
    spool.write([Drop(2)])
    spool.write([Put(3, b"later", b"", b"x" * 500)])
    spool.close()
    for _ in range(3):
        spool = opened(disk, segment_bytes=1100)
        assert dict(spool.items()) == {3: b"later"}
        spool.close()


def test_a_failed_sync_of_the_directory_refuses_too(tmp_path: Path) -> None:
    failing = []

    def sync(fd: int) -> None:
        if failing and os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, failing.pop())
        os.fdatasync(fd)

    spool = Spool(tmp_path / "spool", sync=sync)
    failing += ["first", "second"]
    with pytest.raises(SpoolFailed):
        spool.write([Put(1, b"refused", b"", b"")])
    failing.clear()
    spool.write([Put(2, b"", b"", b"")])
    assert [key for key, _ in spool.items()] == [2]
    spool.close()


def test_no_room_is_said_to_the_waiting_and_service_resumes(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"before", b"", b"")])
    disk.room = 100
    for _ in range(3):
        with pytest.raises(SpoolFull):
            spool.write([Put(2, b"refused", b"", b"x" * 500)])
    disk.room = None
    spool.write([Put(3, b"after", b"", b"")])
    assert dict(spool.items()) == {1: b"before", 3: b"after"}
    assert after_crash(disk) == {1: b"before", 3: b"after"}


def test_the_partial_frame_is_cut_off(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"before", b"", b"")])
    path = disk.path / name_of(1)
    size = path.stat().st_size
    disk.room = 300
    with pytest.raises(SpoolFull):
        spool.write([Put(2, b"refused", b"", b"x" * 500)])
    assert path.stat().st_size == size
    assert after_crash(disk) == {1: b"before"}


@pytest.mark.parametrize("room", range(0, 420, 20))
def test_frames_that_still_fitted_are_kept_and_the_rest_refused(
    disk: FaultyDisk, room: int
) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"one", b"", b"")])
    spool.write([Amend(1, b"a" * 50)], wait=False)
    spool.write([Amend(1, b"b" * 50)], wait=False)
    disk.room = room
    with pytest.raises(SpoolFull):
        spool.write([Put(2, b"refused", b"", b"x" * 500)])
    disk.room = None
    spool.sync()
    assert dict(spool.items()) == {1: b"b" * 50}
    assert after_crash(disk) == {1: b"b" * 50}


def test_a_full_disk_still_takes_settlements_that_fit(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"one", b"", b""), Put(2, b"two", b"", b"")])
    disk.room = 1000
    with pytest.raises(SpoolFull):
        spool.write([Put(3, b"refused", b"", b"x" * 2000)])
    disk.room = 100
    spool.write([Drop(1)], wait=False)
    spool.sync()
    assert after_crash(disk) == {2: b"two"}


def test_what_does_not_fit_and_is_not_waited_for_is_kept_until_it_does(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Put(1, b"one", b"", b"")])
    disk.room = 10
    spool.write([Amend(1, b"first" * 10)], wait=False)
    with pytest.raises(SpoolFull):
        spool.sync()
    spool.write([Amend(1, b"second" * 10)], wait=False)
    with pytest.raises(SpoolFull):
        spool.sync()
    disk.room = None
    spool.sync()
    assert dict(spool.items()) == {1: b"second" * 10}
    spool.close()


def test_the_put_of_chunks_that_found_no_room_is_refused(disk: FaultyDisk) -> None:
    spool = opened(disk)
    disk.room = 5000
    for seq in range(10):
        spool.write([Chunk(1, seq, bytes(1000))], wait=False)
    with pytest.raises(SpoolFull):
        spool.write([Put(1, b"", b"", b"", 10)])
    disk.room = None
    with pytest.raises(SpoolFailed):
        spool.write([Put(1, b"", b"", b"", 10)])
    spool.write([Drop(1)], wait=False)
    spool.sync()
    assert (list(spool.items()), spool.living_bytes) == ([], 0)
    spool.close()


def test_the_put_of_chunks_whose_sync_failed_is_refused(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.write([Chunk(1, 0, b"x" * 1000)], wait=False)
    disk.sync_errors = [errno.EIO]
    with pytest.raises(SpoolFailed):
        spool.write([Put(1, b"", b"", b"", 1)])
    assert after_crash(disk) == {}


def test_a_spool_opens_on_a_full_disk(disk: FaultyDisk) -> None:
    opened(disk).close()
    disk.room = 0
    spool = opened(disk)
    with pytest.raises(SpoolFull):
        spool.write([Put(1, b"", b"", b"")])
    disk.room = None
    spool.write([Put(1, b"state", b"", b"")])
    spool.close()
    spool = opened(disk)
    assert dict(spool.items()) == {1: b"state"}
    spool.close()


def test_a_failing_first_sync_of_a_full_roll_loses_nothing(disk: FaultyDisk) -> None:
    spool = opened(disk, segment_bytes=2048)
    spool.write([Put(1, b"one", b"", b"x" * 900)])
    disk.sync_errors = [errno.EIO]
    with pytest.raises(SpoolFailed):
        spool.write([Put(2, b"refused", b"", b"x" * 900)])
    spool.write([Put(3, b"three", b"", b"x" * 900)])
    assert after_crash(disk) == {1: b"one", 3: b"three"}


LIMITED = """
import resource, sys, spool
held = spool.Spool(sys.argv[1])
held.write([spool.Put(1, b"one", b"", b"x" * 10000)])
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        held.write([spool.Put(2, b"refused", b"", b"x" * 10000)])
    except spool.SpoolFull as error:
        print("full:", error)
held.write([spool.Amend(1, b"small")])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
held.write([spool.Put(3, b"three", b"", b"x" * 10000)])
print(dict(held.items()))
"""


def test_the_limit_on_file_size_is_a_full_disk(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.count("full:") == 2
    assert ended.stdout.endswith("{1: b'small', 3: b'three'}\n")
    spool = Spool(tmp_path)
    assert dict(spool.items()) == {1: b"small", 3: b"three"}
    spool.close()
