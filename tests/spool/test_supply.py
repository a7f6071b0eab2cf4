"""supply.py: segments made ahead of need and used again, and what a crash leaves of that."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spool import Drop, Put, Spool, SpoolFailed, SpoolFull
from spool.segment import FIRST, find_header, name_of, tag_of
from support.faulty_files import Crash, FaultyDisk, Rounds
from support.spools import forget_checkpoint

SIZE = 8192


@pytest.fixture
def disk(tmp_path: Path) -> FaultyDisk:
    return FaultyDisk(tmp_path / "spool")


def opened(disk: FaultyDisk) -> Spool:
    return Spool(disk.path, files=disk.files, segment_bytes=SIZE)


def spares(disk: FaultyDisk) -> list[Path]:
    return sorted(disk.path.glob("spare-*"))


def fill(spool: Spool, key: int) -> None:
    """Most of a segment."""
    spool.write([Put(key, b"state", b"", bytes([key]) * 5000)])


def old_frames(segment: Path) -> int:
    """How many tags of earlier lives stand in it."""
    raw = segment.read_bytes()
    header = find_header(raw)
    assert header is not None
    return sum(raw.count(tag_of(header.secret, n)) for n in range(1, header.number))


def test_upkeep_makes_a_spare_and_the_next_segment_is_it(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.run(Rounds(1))
    (spare,) = spares(disk)
    assert (spare.stat().st_size, spare.stat().st_mode & 0o777) == (SIZE, 0o600)
    inode = spare.stat().st_ino
    fill(spool, 1)
    assert (disk.path / name_of(1)).stat().st_ino == inode
    assert (disk.path / name_of(1)).stat().st_size == SIZE
    assert not spares(disk)
    spool.close()


def test_the_header_is_durable_before_a_spare_is_renamed(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.run(Rounds(1))
    name = spares(disk)[0].name
    disk.synced.clear()
    fill(spool, 1)
    assert disk.synced == [name, "", name_of(1)]
    spool.close()


def test_a_spent_segment_is_used_again_and_its_old_frames_never_count(
    disk: FaultyDisk, caplog: pytest.LogCaptureFixture
) -> None:
    spool = opened(disk)
    spool.run(Rounds(1))
    for key in range(1, 60):
        spool.write([Put(key, b"old", b"", b"x" * 900)])
        spool.write([Drop(key)])
        spool.run(Rounds(1))
    spool.write([Put(99, b"alive", b"", b"")])
    assert len(list(disk.path.iterdir())) <= 8
    spool.close()
    assert any(old_frames(path) for path in disk.path.glob("*.segment"))
    spool = opened(disk)
    assert list(spool.items()) == [(99, b"alive")]
    assert (spool.counters.lost_frames, spool.counters.torn_bytes) == (0, 0)
    assert not caplog.records
    spool.close()


def test_a_torn_frame_in_a_segment_made_ahead_is_noticed_and_cut(
    disk: FaultyDisk, caplog: pytest.LogCaptureFixture
) -> None:
    spool = opened(disk)
    spool.run(Rounds(1))
    spool.write([Put(1, b"state", b"", b"")])
    spool.write([Put(2, b"torn", b"", b"x" * 1500)])
    spool.close()
    path = disk.path / name_of(1)
    raw = path.read_bytes()
    path.write_bytes(raw[: FIRST + 200] + bytes(SIZE - FIRST - 200))
    spool = Spool(disk.path, segment_bytes=SIZE)
    assert dict(spool.items()) == {1: b"state"}
    assert spool.counters.torn_bytes > 0
    assert "torn tail" in caplog.text
    spool.close()


def test_a_number_is_above_all_that_spares_ever_had(tmp_path: Path) -> None:
    """Else frames of a spare's earlier life would have the tag of its next one."""
    spool = Spool(tmp_path, segment_bytes=SIZE)
    spool.run(Rounds(1))
    for key in (1, 2, 3):
        fill(spool, key)
        spool.run(Rounds(1))
    spool.close()
    for spare in tmp_path.glob("spare-*"):
        spare.unlink()
    (tmp_path / name_of(3)).rename(tmp_path / "spare-77")
    forget_checkpoint(tmp_path)
    spool = Spool(tmp_path, segment_bytes=SIZE)
    for key in (9, 10):
        spool.write([Put(key, b"short", b"", b"")])
        fill(spool, key + 10)
    assert not (tmp_path / name_of(3)).exists()
    assert (tmp_path / name_of(4)).exists()
    spool.close()
    spool = Spool(tmp_path, segment_bytes=SIZE)
    assert {key for key, _ in spool.items()} == {1, 2, 9, 10, 19, 20}
    spool.close()


def test_what_failed_a_sync_is_not_used_again(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.run(Rounds(1))
    disk.cut_error = errno.EROFS
    disk.sync_errors = [0, errno.EIO]  # the header of the spare, then the frame
    with pytest.raises(SpoolFailed):
        fill(spool, 1)
    disk.cut_error = 0
    for key in range(2, 12):
        fill(spool, key)
        spool.write([Drop(key)])
        spool.run(Rounds(1))
    assert disk.second_syncs == 0
    spool.close()


@pytest.mark.parametrize("junk", [b"", b"junk", bytes(SIZE), b"x" * SIZE])
def test_a_spare_that_is_none_is_deleted(disk: FaultyDisk, junk: bytes) -> None:
    opened(disk).close()
    (disk.path / "spare-5").write_bytes(junk)
    spool = Spool(disk.path, segment_bytes=SIZE)
    assert not spares(disk)
    spool.write([Put(1, b"state", b"", b"")])
    spool.close()


def test_a_message_that_does_not_fit_gets_a_segment_of_its_size(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.run(Rounds(1))
    spool.write([Put(1, b"large", b"", b"x" * 9000)])
    assert len(spares(disk)) == 1
    fill(spool, 2)
    spool.close()
    spool = opened(disk)
    assert dict(spool.items()) == {1: b"large", 2: b"state"}
    spool.close()


def test_without_room_for_a_spare_all_goes_on_and_resumes(disk: FaultyDisk) -> None:
    disk.room = 0
    spool = opened(disk)
    spool.run(Rounds(2))
    assert not spares(disk)
    with pytest.raises(SpoolFull):
        fill(spool, 1)
    disk.room = None
    spool.run(Rounds(1))
    fill(spool, 1)
    assert dict(spool.items()) == {1: b"state"}
    spool.close()


def test_a_reserve_is_left_to_settlements_when_no_segment_can_be_made(disk: FaultyDisk) -> None:
    spool = opened(disk)
    spool.run(Rounds(1))
    for key in (1, 2):
        spool.write([Put(key, b"", b"", b"x" * 3400)])
    disk.room = 0
    refused = 0
    while True:
        try:
            spool.write([Put(9, b"", b"", b"")])
        except SpoolFull:
            refused += 1
            break
    spool.write([Drop(1)], wait=False)
    spool.sync()
    assert (refused, 1 in dict(spool.items())) == (1, False)
    disk.crash()
    spool = opened(disk)
    assert 1 not in dict(spool.items())
    fill(spool, 10)
    spool.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("calls", range(60))
def test_a_crash_at_any_step_loses_and_revives_nothing(
    tmp_path: Path, calls: int, seed: int
) -> None:
    """Making, renaming, taking and giving back spares, stopped before each single call."""
    disk = FaultyDisk(tmp_path / "spool", seed)
    disk.calls_left = calls
    alive: set[int] = set()
    doubtful: set[int] = set()
    try:
        spool = opened(disk)
        for key in range(1, 12):
            spool.run(Rounds(1))
            doubtful = {key}
            fill(spool, key)
            alive.add(key)
            doubtful = {key - 1}
            spool.write([Drop(key - 1)])
            alive.discard(key - 1)
            doubtful = set()
    except Crash:
        pass
    for _ in range(2):
        disk.crash()
        spool = opened(disk)
        found = {key for key, _ in spool.items()}
        assert found - doubtful == alive - doubtful
        alive = found
        spool.run(Rounds(1))
        fill(spool, 200)
        spool.write([Drop(200)])
        assert {key for key, _ in spool.items()} == alive
        assert all(len(b"".join(spool.body(key))) == 5000 for key in alive)


LIMITED = """
import resource, sys, spool
from support.faulty_files import Rounds
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
held = spool.Spool(sys.argv[1])
held.run(Rounds(1))
held.write([spool.Put(1, b"one", b"", b"x" * 10000)])
try:
    held.write([spool.Put(2, b"refused", b"", b"x" * 10000)])
except spool.SpoolFull as error:
    print("full:", error)
held.write([spool.Amend(1, b"small")], wait=False)
held.sync()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
held.write([spool.Put(3, b"three", b"", b"x" * 10000)])
print(dict(held.items()))
held.close()
"""


def test_a_limit_on_file_size_at_the_start_stops_no_settlement(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.stdout.count("full:") == 1
    assert ended.stdout.endswith("{1: b'small', 3: b'three'}\n")
    assert not list(tmp_path.glob("spare-*"))
