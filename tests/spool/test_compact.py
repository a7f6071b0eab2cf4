"""compact.py and copying.py: room comes back, and nothing that is needed goes with it."""

import contextlib
import errno
import logging
import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from spool import Amend, Chunk, Drop, Put, Spool, SpoolFull, store
from spool.checkpoint import NAME
from spool.compact import BITE_BYTES, Compactor, Frame, Usage, emptiest
from spool.frame import Record, encode
from spool.index import Place
from spool.segment import FIRST, name_of
from support.faulty_files import Crash, FaultyDisk, Rounds
from support.spools import forget_checkpoint

SEGMENT_BYTES = 8192


def opened(path: Path, **options: object) -> Spool:
    return Spool(path, segment_bytes=SEGMENT_BYTES, **options)  # type: ignore[arg-type]


def found(spool: Spool) -> dict[int, tuple[bytes, bytes, bytes]]:
    return {k: (state, spool.head(k), b"".join(spool.body(k))) for k, state in spool.items()}


def segments_of(path: Path) -> list[str]:
    return sorted(p.name for p in path.glob("*.segment"))


def filled(path: Path, *, keep: Sequence[int] = (), count: int = 40, **options: object) -> Spool:
    """Several segments of 1,000-byte bodies, all dead but `keep`."""
    spool = opened(path, **options)
    for key in range(1, count + 1):
        spool.write([Put(key, b"first", b"head %d" % key, b"%d" % key * 300)])
    for key in range(1, count + 1):
        if key not in keep:
            spool.write([Drop(key)], wait=False)
    spool.sync()
    return spool


@pytest.mark.parametrize(
    ("usage", "ratio", "picked"),
    [
        ([], 0.5, None),
        ([Usage(1, 100, 50)], 0.5, None),
        ([Usage(1, 100, 49)], 0.5, 1),
        ([Usage(1, 100, 49), Usage(2, 100, 10), Usage(3, 100, 20)], 0.5, 2),
        ([Usage(4, 100, 0), Usage(2, 100, 0)], 0.5, 2),
        ([Usage(1, 0, 0)], 0.5, 1),
        ([Usage(1, 100, 130)], 0.0, None),
        ([Usage(1, 100, 1)], 1.0, None),
    ],
)
def test_the_emptiest_segment_above_the_ratio_is_picked(
    usage: list[Usage], ratio: float, picked: int | None
) -> None:
    chosen = emptiest(usage, ratio)
    assert (chosen and chosen.number) == picked


class Scripted:
    """A Source with one segment of frames, and a clock that moves as it copies."""

    def __init__(self, frames: int, frame_bytes: int, records: int = 1) -> None:
        self.left = [Usage(1, frames * frame_bytes, 0)]
        batch = [Drop(1)] * records
        self._frames = [(Place(1, n * frame_bytes, frame_bytes), batch) for n in range(frames)]
        self.bites: list[int] = []
        self.now = 0.0
        self.error: Exception | None = None
        self.releases = True

    def usage(self) -> list[Usage]:
        return self.left

    def frames(self, number: int) -> Iterator[Frame]:
        return iter(self._frames)

    def copy(self, frames: Sequence[Frame]) -> int:
        if self.error is not None:
            raise self.error
        self.bites.append(len(frames))
        self.now += 0.001
        return 0

    def release(self, number: int) -> bool:
        if self.releases:
            self.left = []
        return self.releases

    def compactor(self, rate_bytes_s: float = 1e9) -> Compactor:
        return Compactor(
            self,
            logging.getLogger("test"),
            ratio=0.5,
            rate_bytes_s=rate_bytes_s,
            clock=lambda: self.now,
        )


def test_it_is_done_in_bites_that_keep_to_the_rate() -> None:
    source = Scripted(frames=100, frame_bytes=BITE_BYTES // 4)
    compactor = source.compactor(rate_bytes_s=BITE_BYTES * 10)
    rests = []
    while (rest_s := compactor.step()) is not None:
        rests.append(rest_s)
    assert source.bites == [4] * 25
    # A tenth of a second for each bite, the thousandth that it took included.
    assert rests[:-1] == pytest.approx([0.099] * 25)
    assert compactor.step() is None


@pytest.mark.parametrize(("records", "bites"), [(1, [256, 256, 88]), (100, [3] * 200)])
def test_many_small_records_are_small_bites_too(records: int, bites: list[int]) -> None:
    source = Scripted(frames=600, frame_bytes=40, records=records)
    compactor = source.compactor()
    while compactor.step() is not None:
        pass
    assert source.bites == bites


def test_a_disk_that_refuses_is_left_alone_for_a_while() -> None:
    source = Scripted(frames=4, frame_bytes=100)
    source.error = SpoolFull("no room")
    compactor = source.compactor()
    assert compactor.step() is None
    source.error = None
    source.now += 9
    assert compactor.step() is None
    assert source.bites == []
    source.now += 2
    assert compactor.step() is not None
    assert source.bites == [4]


def test_a_segment_that_cannot_be_emptied_is_tried_once() -> None:
    source = Scripted(frames=4, frame_bytes=100)
    source.releases = False
    compactor = source.compactor()
    while compactor.step() is not None:
        pass
    assert source.bites == [4]


class Dying:
    """A sealed segment, looked at each second, that has so many bytes living."""

    def __init__(self, living_bytes: int) -> None:
        self.source = Scripted(frames=10, frame_bytes=1000)
        self.compactor = self.source.compactor()
        assert not self.look(living_bytes)

    def look(self, living_bytes: int) -> bool:
        """Whether it is copied now."""
        self.source.left = [Usage(1, 10_000, living_bytes)]
        self.source.now += 1
        return self.compactor.step() is not None


def test_a_segment_that_empties_by_itself_is_left_alone() -> None:
    dying = Dying(8000)
    assert not any(dying.look(living) for living in (6000, 4000, 2000, 1000, 1))
    assert not dying.source.bites
    while dying.compactor.step(at_once=True) is not None:
        pass
    assert dying.source.bites == [10], "who asks for all of it has it"


@pytest.mark.parametrize("still_dying", [1.0, 0.95])
def test_and_no_more_once_it_does_so_too_slowly(still_dying: float) -> None:
    dying = Dying(8000)
    assert not any(dying.look(living) for living in (6000, 4000))
    assert dying.look(int(4000 * still_dying))


def test_nor_for_long() -> None:
    dying = Dying(8000)
    looks = [dying.look(int(8000 * 0.85**second)) for second in range(1, 12)]
    assert looks == [False] * 10 + [True]


def test_a_segment_in_which_nothing_lives_does_not_empty_any_more() -> None:
    dying = Dying(8000)
    assert [dying.look(living) for living in (0, 0)] == [False, True]


def test_what_lives_moves_and_its_room_comes_back(tmp_path: Path) -> None:
    spool = filled(tmp_path, keep=[3, 17, 33])
    spool.write([Amend(17, b"amended")])
    before = found(spool)
    assert set(before) == {3, 17, 33}
    spool.compact()
    assert spool.segments <= 2
    assert spool.counters.compacted_segments >= 3
    assert found(spool) == before
    # Three bodies of a thousand bytes, of forty, and a header of a thousand in each segment.
    assert 1.0 < spool.counters.write_amplification < 1.3
    spool.close()
    spool = opened(tmp_path)
    assert found(spool) == before
    spool.close()


def test_run_compacts_in_the_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    spool = filled(tmp_path, keep=[3])
    stop = threading.Event()
    upkeep = threading.Thread(target=spool.run, args=[stop])
    upkeep.start()
    pause = threading.Event()
    for _ in range(2000):
        if "write amplification " in caplog.text:
            break
        pause.wait(0.005)
    stop.set()
    upkeep.join()
    assert spool.segments <= 2
    assert set(found(spool)) == {3}
    spool.close()


class Waits(threading.Event):
    """Give it to Spool.run(), and to the module in place of `time`: so many waits, each of which
    takes as long as it should."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.now = 0.0
        self._left = count

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        self._left -= 1
        return self._left < 0


def test_the_rate_is_kept_whatever_else_wakes_the_upkeep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate_bytes_s = 20_000
    stop = Waits(100)
    # What reading takes on a busy machine would be taken off the rests.
    monkeypatch.setattr(store, "Compactor", partial(Compactor, clock=stop.monotonic))
    spool = filled(
        tmp_path,
        count=400,
        keep=range(1, 400, 10),
        compact_rate_bytes_s=rate_bytes_s,
        checkpoint_bytes=1,
    )
    monkeypatch.setattr(store, "time", stop)
    spool.run(stop)
    read_bytes = spool.counters.compacted_read_bytes
    assert 10 * SEGMENT_BYTES < read_bytes <= rate_bytes_s * stop.now + SEGMENT_BYTES
    assert (tmp_path / NAME).exists(), "a checkpoint was written beside it"
    spool.close()


@pytest.mark.parametrize("seed", range(20))
def test_what_ended_stays_ended_when_a_removal_is_not_durable_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The end of a key stands in another segment, which must not go before that removal is."""
    disk = FaultyDisk(tmp_path / "spool", seed)
    spool = Spool(disk.path, files=disk.files, segment_bytes=4096, compact_ratio=1.0)
    for key in range(1, 5):  # a segment each
        spool.write([Put(key, b"", b"", b"x" * 2500)])
        spool.write([Drop(key - 1)])
    calls: list[BaseException] = [OSError(errno.EIO, "no"), Crash()]

    def sync_directory() -> None:
        raise calls.pop(0)

    monkeypatch.setattr(spool._files, "sync_directory", sync_directory)
    monkeypatch.setattr(spool._log, "prepare", lambda: None)
    spool.run(Rounds(1))
    assert len(calls) == 1
    with pytest.raises(Crash):
        spool.run(Rounds(1))
    disk.crash()
    spool = Spool(disk.path, files=disk.files, segment_bytes=4096)
    assert [key for key, _ in spool.items()] == [4]
    spool.close()


def test_a_removal_that_failed_half_way_is_finished_later(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "spool")
    spool = filled(disk.path, keep=[40], files=disk.files)
    before = spool.segments
    disk.failing_call = (3, errno.EIO)
    spool.run(Rounds(1))
    disk.failing_call = None
    spool.run(Rounds(1))
    assert spool.segments < before
    assert len(segments_of(disk.path)) == spool.segments
    assert not spool._log.is_removing
    spool.close()


def test_nothing_else_is_removed_while_a_start_removes(tmp_path: Path) -> None:
    filled(tmp_path, keep=[40]).close()
    spool = opened(tmp_path, lazy=True)
    free: list[bool] = []

    def sync_directory() -> None:
        free.append(spool._upkeep.acquire(blocking=False))

    spool._files.sync_directory = sync_directory  # type: ignore[method-assign]
    for _ in spool.load():
        pass
    del spool._files.sync_directory
    assert free
    assert not any(free)
    spool.close()


def test_nothing_is_compacted_below_the_ratio(tmp_path: Path) -> None:
    spool = filled(tmp_path, keep=range(1, 31), compact_ratio=0.9)
    spool.run(_Once())
    names = segments_of(tmp_path)
    spool.compact()
    assert segments_of(tmp_path) == names
    assert spool.counters.compacted_bytes == 0
    spool.close()


class _Once(threading.Event):
    """One round of upkeep."""

    def wait(self, timeout: float | None = None) -> bool:
        was, _ = self.is_set(), self.set()
        return was


def test_a_segment_may_die_whole_while_it_is_compacted(tmp_path: Path) -> None:
    spool = filled(tmp_path, keep=[3], compact_rate_bytes_s=1)
    spool.run(_Once())  # a bite, and a long rest
    spool.write([Drop(3)])
    spool.run(_Once())
    spool.compact()
    assert spool.segments == 1
    assert found(spool) == {}
    spool.close()


@pytest.mark.parametrize("late", [Amend(3, b"newest"), Drop(3)], ids=["AMEND", "DROP"])
def test_a_copy_is_not_older_than_what_is_on_its_way(tmp_path: Path, late: Record) -> None:
    spool = filled(tmp_path, keep=[3, 5])
    spool.write([late], wait=False)
    spool.compact()
    expected = {5: b"first"} | ({3: b"newest"} if isinstance(late, Amend) else {})
    assert dict(spool.items()) == expected
    spool.close()
    spool = opened(tmp_path)
    assert dict(spool.items()) == expected
    spool.close()


def test_a_copy_of_a_state_on_its_way_has_what_stands_beside_that(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", keep=[3], count=20)
    batch = [Amend(3, b"told"), Put(100, b"due", b"head", b"report")]
    spool.note(batch)
    spool.compact()
    assert spool.counters.compacted_segments == 1
    # A power cut may take the frame that was noted, and leave the copies.
    shutil.copytree(tmp_path / "spool", tmp_path / "after")
    spool.close()
    noted, taken = encode(batch), 0
    for segment in (tmp_path / "after").glob("*.segment"):
        content = segment.read_bytes()
        taken += content.count(noted)
        segment.write_bytes(content.replace(noted, bytes(len(noted))))
    assert taken == 1
    after = opened(tmp_path / "after")
    assert dict(after.items()) == {3: b"told", 100: b"due"}
    assert list(after.body(100)) == [b"report"]
    after.close()


def test_a_drop_is_copied_while_the_put_that_it_ends_is_there(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for key in range(1, 7):  # a segment that stays: nearly all of it lives
        spool.write([Put(key, b"", b"", b"x" * 1000)])
    # The DROP of one of them is all that is needed of the next.
    for key in range(10, 16):
        spool.write([Put(key, b"", b"", b"y" * 1000)])
    spool.write([Drop(6)])
    for key in range(10, 16):
        spool.write([Drop(key)])
    for key in range(20, 26):
        spool.write([Put(key, b"", b"", b"z" * 1000)])
    names = segments_of(tmp_path)
    assert spool.segments == 3
    spool.compact()
    assert segments_of(tmp_path) == [names[0], names[2]]
    spool.close()
    # And the copies, when all around them has died.
    for start in range(30, 60, 6):
        spool = opened(tmp_path)
        assert {key for key, _ in spool.items()} == {*range(1, 6), *range(20, 26)}
        spool.write([Put(key, b"", b"", b"x" * 1000) for key in range(start, start + 6)])
        spool.write([Drop(key) for key in range(start, start + 6)])
        spool.compact()
        spool.close()


def test_a_key_that_moved_twice_and_then_ended_stays_ended(tmp_path: Path) -> None:
    """Its first segment outlives the second: who ends a key ends every copy of it."""
    seed = random.Random(5)
    spool = opened(tmp_path)
    alive: set[int] = set()
    for key in range(1, 400):
        spool.write([Put(key, b"", b"", bytes(seed.randrange(1500)))], wait=False)
        alive.add(key)
        while len(alive) > 12:
            dying = seed.choice(sorted(alive))
            alive.discard(dying)
            spool.write([Drop(dying)], wait=False)
        if seed.random() < 0.2:
            spool.sync()
        if seed.random() < 0.1:
            spool.compact()
        if seed.random() < 0.05:
            spool.close()
            spool = opened(tmp_path)
            assert {k for k, _ in spool.items()} == alive
    spool.close()


def test_the_disk_holds_at_most_twice_what_lives_and_a_few_segments(tmp_path: Path) -> None:
    seed = random.Random(7)
    spool = opened(tmp_path)
    alive: list[int] = []
    for key in range(1, 1500):
        spool.write([Put(key, b"state", b"head", bytes(seed.randrange(2000)))], wait=False)
        alive.append(key)
        if len(alive) > 100:
            spool.write([Drop(alive.pop(seed.randrange(100)))], wait=False)
        if not key % 100:
            spool.sync()
            spool.compact()
            on_disk = sum(p.stat().st_size for p in tmp_path.iterdir())
            assert on_disk <= 2 * spool.living_bytes + 5 * SEGMENT_BYTES
    spool.close()


def test_frames_too_large_to_share_a_segment_do_not_take_twice_their_room(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.run(_Once())
    for key in range(1, 11):
        spool.write([Put(key, b"", b"", b"x" * (SEGMENT_BYTES // 2))])
        spool.run(_Once())
    on_disk = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert on_disk < 1.3 * spool.living_bytes + 3 * SEGMENT_BYTES
    spool.close()


def test_chunks_move_too_those_of_a_body_in_the_making_as_well(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for seq in range(3):
        spool.write([Chunk(100, seq, b"%d" % seq * 500)])
        spool.write([Chunk(200, seq, b"%d" % seq * 400)])
    spool.write([Put(100, b"whole", b"", b"end", 3)])
    for key in range(1, 30):
        spool.write([Put(key, b"", b"", b"x" * 1000)])
        spool.write([Drop(key)])
    first = segments_of(tmp_path)[0]
    spool.compact()
    assert first not in segments_of(tmp_path)
    spool.write([Put(200, b"whole too", b"", b"end", 3)])
    expected = {
        100: (b"whole", b"", b"".join(b"%d" % seq * 500 for seq in range(3)) + b"end"),
        200: (b"whole too", b"", b"".join(b"%d" % seq * 400 for seq in range(3)) + b"end"),
    }
    assert found(spool) == expected
    spool.close()
    spool = opened(tmp_path)
    assert found(spool) == expected
    spool.close()


def test_a_body_may_be_read_while_it_moves(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for seq in range(3):
        spool.write([Chunk(100, seq, b"%d" % seq * 500)])
    spool.write([Put(100, b"whole", b"", b"end", 3)])
    for key in range(1, 30):
        spool.write([Put(key, b"", b"", b"x" * 1000)])
        spool.write([Drop(key)])
    pieces = spool.body(100)
    read = [next(pieces)]
    spool.compact()
    # The room it stood in is used again.
    for key in range(30, 60):
        spool.write([Put(key, b"", b"", b"x" * 1000)])
    read += pieces
    assert read == [b"0" * 500, b"1" * 500, b"2" * 500, b"end"]
    spool.close()


def test_a_damaged_record_keeps_its_segment_and_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = filled(tmp_path, keep=[3, 4])
    first = tmp_path / name_of(1)
    raw = first.read_bytes()
    first.write_bytes(raw.replace(b"3" * 300, b"3" * 299 + b"?"))
    spool.compact()
    assert first.exists()
    assert "cannot be copied" in caplog.text
    assert b"".join(spool.body(4)) == b"4" * 300
    spool.close()


def damaged_below(path: Path, what: bytes) -> tuple[int, bytes]:
    """Flip a bit in the first frame of segment 1 that has `what`.  → its offset and its bytes."""
    file = path / name_of(1)
    raw = bytearray(file.read_bytes())
    at = raw.index(what)
    start = raw.rindex(raw[FIRST : FIRST + 8], 0, at)
    raw[at] ^= 1
    file.write_bytes(raw)
    length = 20 + int.from_bytes(raw[start + 12 : start + 16], "little")
    return start, bytes(raw[start : start + length])


def kept_aside(path: Path) -> dict[str, bytes]:
    """Name without its checksum → content."""
    files = (path / "quarantine").glob("*")
    return {file.name.rpartition("-")[0]: file.read_bytes() for file in files}


@pytest.mark.parametrize("key", [3, 15], ids=["within", "at its end"])
def test_dead_damage_is_kept_aside_before_its_segment_is_compacted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: int
) -> None:
    spool = filled(tmp_path, keep=[4])
    offset, raw = damaged_below(tmp_path, b"%d" % key * 300)
    spool.compact()
    assert not (tmp_path / name_of(1)).exists()
    assert kept_aside(tmp_path) == {f"{1:012}-{offset}": raw}
    lost = f"{name_of(1)}: 1 frames lost, {len(raw)} bytes, of PUT {key}"
    assert lost in caplog.text
    assert set(found(spool)) == {4}
    spool.close()


def test_damage_that_cannot_be_kept_aside_keeps_its_segment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = filled(tmp_path, keep=[4])
    damaged_below(tmp_path, b"3" * 300)
    (tmp_path / "quarantine").write_text("in the way")
    raw = (tmp_path / name_of(1)).read_bytes()
    spool.compact()
    for _ in range(2):
        spool.write([Drop(4)])
        spool.run(_Once())
        assert (tmp_path / name_of(1)).read_bytes() == raw
        assert f"{name_of(1)} stays for that" in caplog.text
        spool.close()
        caplog.clear()
        forget_checkpoint(tmp_path)  # a start that reads all finds it, too
        spool = opened(tmp_path)
    (tmp_path / "quarantine").unlink()
    spool.close()
    forget_checkpoint(tmp_path)
    spool = opened(tmp_path)
    assert not (tmp_path / name_of(1)).exists()
    assert len(kept_aside(tmp_path)) == 1
    spool.close()


def test_a_full_disk_ends_a_compaction_and_costs_nothing(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "spool")
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    for seq in range(3):
        spool.write([Chunk(100, seq, b"%d" % seq * 500)])
    spool.write([Put(100, b"whole", b"", b"end", 3)])
    for key in range(1, 12):
        spool.write([Put(key, b"", b"", b"x" * 1000)])
        spool.write([Drop(key)])
    before = found(spool)
    disk.room = 0
    spool.compact()
    assert found(spool) == before
    disk.crash()
    spool = opened(disk.path)
    assert found(spool) == before
    spool.close()


def nine_tenths_dead(disk: FaultyDisk) -> Spool:
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    for key in range(1, 40):
        spool.write([Put(key, b"%d" % key, b"head", b"%d" % key * 300)])
    for key in range(1, 40):
        if key % 9:
            spool.write([Drop(key)])
    return spool


@pytest.mark.parametrize("seed", range(30))
def test_a_crash_at_any_step_of_a_compaction_costs_nothing(tmp_path: Path, seed: int) -> None:
    disk = FaultyDisk(tmp_path / "spool", seed)
    spool = nine_tenths_dead(disk)
    before = found(spool)
    disk.calls_left = seed
    with contextlib.suppress(Crash):
        spool.compact()
    disk.crash()
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    assert found(spool) == before
    spool.compact()
    disk.crash()
    spool = opened(disk.path)
    assert found(spool) == before
    spool.close()


def test_a_failed_sync_ends_a_compaction_and_costs_nothing(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "spool")
    spool = nine_tenths_dead(disk)
    before = found(spool)
    disk.sync_errors = [0, errno.EIO]
    spool.compact()
    assert spool.counters.failed_syncs == 1
    assert disk.second_syncs == 0
    assert found(spool) == before
    disk.crash()
    spool = opened(disk.path)
    assert found(spool) == before
    spool.close()
