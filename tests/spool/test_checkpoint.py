"""checkpoint.py, loading.py, saving.py: a start reads little, and what it reads may be wrong."""

import contextlib
import errno
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import spool.index
import spool.loading
import spool.recovery
import spool.store
from spool import Amend, Chunk, CorruptFrame, Drop, Put, Spool, SpoolFailed
from spool.checkpoint import NAME
from spool.files import Files
from spool.segment import name_of
from support.faulty_files import Crash, FaultyDisk, Rounds
from support.spools import forget_checkpoint

SEGMENT_BYTES = 4096
Found = dict[int, tuple[bytes, bytes]]


def opened(path: Path, **options: object) -> Spool:
    return Spool(path, segment_bytes=SEGMENT_BYTES, **options)  # type: ignore[arg-type]


def found(spool: Spool) -> Found:
    return {key: (state, b"".join(spool.body(key))) for key, state in spool.items()}


def loaded(spool: Spool) -> dict[int, bytes]:
    """All that load() gives out; nothing twice."""
    seen: dict[int, bytes] = {}
    for batch in spool.load():
        assert not seen.keys() & dict(batch).keys()
        seen.update(batch)
    return seen


def fill(path: Path) -> Found:
    """A closed spool of several segments, with a checkpoint that covers all of it."""
    spool = opened(path)
    for key in range(1, 21):
        spool.write([Put(key, b"first", b"head", b"%d" % key * 300)])
    for key in range(1, 21, 3):
        spool.write([Amend(key, b"amended")])
    for key in range(2, 21, 3):
        spool.write([Drop(key)])
    for seq in range(3):
        spool.write([Chunk(100, seq, b"%d" % seq * 900)])
    spool.write([Put(100, b"large", b"head", b"end", 3)])
    expected = found(spool)
    spool.close()
    assert (path / NAME).exists()
    return expected


class Reading:
    """Counts the bytes read of each file."""

    def __init__(self) -> None:
        self.read: dict[str, int] = {}

    def files(self, path: str, sync: Callable[[int], None]) -> Files:
        counts = self.read

        class Counted(Files):
            names_of: dict[int, str] = {}  # noqa: RUF012

            def open(self, name: str, *, writable: bool = False) -> int:
                fd = super().open(name, writable=writable)
                self.names_of[fd] = name
                return fd

            def read(self, fd: int, offset: int, count: int) -> bytes:
                raw = super().read(fd, offset, count)
                name = self.names_of.get(fd, "")
                counts[name] = counts.get(name, 0) + len(raw)
                return raw

        return Counted(path, sync)

    @property
    def of_segments(self) -> int:
        return sum(count for name, count in self.read.items() if name.endswith(".segment"))


def test_a_start_reads_the_checkpoint_and_not_the_log(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=65536)
    for key in range(1, 101):
        spool.write([Put(key, b"", b"", b"x" * 6000)], wait=False)
    spool.close()
    count = len(list(tmp_path.glob("*.segment")))
    reading = Reading()
    spool = Spool(tmp_path, files=reading.files)
    assert len(spool) == 100
    # Headers, the position, and what may stand behind it.
    assert reading.of_segments <= count * 2 * 4096 + 65536
    assert reading.read[NAME] > 0
    spool.close()
    forget_checkpoint(tmp_path)
    reading = Reading()
    Spool(tmp_path, files=reading.files).close()
    assert reading.of_segments > 600_000


def test_what_was_written_after_the_checkpoint_counts(tmp_path: Path) -> None:
    expected = fill(tmp_path)
    old = (tmp_path / NAME).read_bytes()
    spool = opened(tmp_path)
    spool.write([Drop(1)])
    spool.write([Amend(3, b"newest")])
    spool.write([Put(200, b"new", b"head", b"body")])
    spool.write([Put(201, b"new", b"head", b"body")])
    spool.write([Drop(201)])
    for key in range(300, 320):
        spool.write([Put(key, b"", b"", b"x" * 1000)])
        spool.write([Drop(key)])
    spool.close()
    (tmp_path / NAME).write_bytes(old)
    del expected[1]
    expected[3] = (b"newest", expected[3][1])
    expected[200] = (b"new", b"body")
    spool = opened(tmp_path)
    assert found(spool) == expected
    spool.close()


def test_a_checkpoint_older_than_a_compaction_is_put_right_by_the_tail(tmp_path: Path) -> None:
    expected = fill(tmp_path)
    old = (tmp_path / NAME).read_bytes()
    spool = opened(tmp_path)
    for key in range(4, 20, 3):
        spool.write([Drop(key)])
        del expected[key]
    spool.compact()
    assert spool.counters.compacted_bytes > 0
    assert found(spool) == expected
    spool.close()
    (tmp_path / NAME).write_bytes(old)
    spool = opened(tmp_path)
    assert found(spool) == expected
    spool.compact()
    spool.close()
    forget_checkpoint(tmp_path)
    spool = opened(tmp_path)
    assert found(spool) == expected
    spool.close()


def test_a_checkpoint_damaged_anywhere_costs_time_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fill(tmp_path)
    raw = (tmp_path / NAME).read_bytes()
    for at in range(0, len(raw), 7):
        damaged = bytearray(raw)
        damaged[at] ^= 0x20
        for content in (bytes(damaged), raw[:at]):
            (tmp_path / NAME).write_bytes(content)
            caplog.clear()
            spool = opened(tmp_path, sync=lambda fd: None)
            assert found(spool) == expected, at
            assert "the checkpoint is of no use" in caplog.text
            spool.close()
            (tmp_path / NAME).write_bytes(raw)


def test_without_a_checkpoint_all_is_there(tmp_path: Path) -> None:
    expected = fill(tmp_path)
    forget_checkpoint(tmp_path)
    spool = opened(tmp_path)
    assert found(spool) == expected
    spool.close()
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_a_checkpoint_of_another_spool_is_of_no_use(tmp_path: Path) -> None:
    expected = fill(tmp_path / "ours")
    fill(tmp_path / "theirs")
    shutil.copy(tmp_path / "theirs" / NAME, tmp_path / "ours" / NAME)
    spool = opened(tmp_path / "ours")
    assert found(spool) == expected
    spool.close()


@pytest.mark.parametrize("change", ["cut", "older", "unknown", "headless"])
def test_a_checkpoint_that_does_not_go_with_the_segments_is_of_no_use(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, copied = tmp_path / "spool", tmp_path / "copy"
    fill(path)
    names = sorted(p.name for p in path.glob("*.segment"))
    last = path / names[-1]
    if change == "older":
        # As if the segments were brought back from a copy made before.
        copy = last.read_bytes()
        spool = opened(path)
        spool.write([Put(500, b"later", b"", b"")])
        spool.close()
        last.write_bytes(copy)
    elif change == "cut":
        last.write_bytes(last.read_bytes()[:1500])
    elif change == "headless":
        (path / names[1]).write_bytes(bytes(2000))
    else:
        shutil.copy(last, path / name_of(2_000))
        (path / name_of(2_000)).rename(path / name_of(1_000))
        (path / names[0]).rename(path / name_of(0))
    checkpoint = (path / NAME).read_bytes()
    forget_checkpoint(path)
    shutil.copytree(path, copied)
    (path / NAME).write_bytes(checkpoint)
    reference = opened(copied)
    caplog.clear()
    spool = opened(path)
    assert "the checkpoint is of no use" in caplog.text
    assert dict(spool.items()) == dict(reference.items())
    spool.close()
    reference.close()


def test_a_segment_that_vanished_is_missed_and_its_keys_are_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fill(tmp_path)
    (tmp_path / name_of(1)).unlink()
    spool = opened(tmp_path)
    assert "segment 1 is missing" in caplog.text
    assert dict(spool.items()).keys() == expected.keys()
    with pytest.raises(CorruptFrame):
        spool.head(1)
    spool.write([Drop(1)])
    spool.close()
    spool = opened(tmp_path)
    assert 1 not in dict(spool.items())
    spool.close()


@pytest.mark.parametrize("ends", ["closed", "killed"])
def test_a_key_that_ended_is_not_missed_though_nothing_is_left_that_says_so(
    tmp_path: Path, ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its DROP was all there was behind the checkpoint, and went with the segment it stood in."""
    log = opened(tmp_path)
    log.write([Put(1, b"", b"", b"x")])
    log.run(Rounds(1))  # makes a spare, which keeps the secret
    log.close()
    log = opened(tmp_path)
    log.write([Drop(1)])
    log._files.close()  # killed while the next segment was being made
    (tmp_path / name_of(2)).write_bytes(bytes(100))
    for _ in range(2):
        log = opened(tmp_path)
        assert dict(log.items()) == {}
        assert not (tmp_path / name_of(1)).exists()
        if ends == "closed":
            log.close()
        else:
            log._files.close()
    assert not [message for message in caplog.messages if "missing" in message]


def test_nor_is_it_missed_when_only_what_says_so_is_gone(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for key in (1, 2, 3):  # a segment each
        log.write([Put(key, b"", b"", b"x" * 2200)])
    log.close()
    log = opened(tmp_path)
    log.write([Drop(1), Drop(3)])
    log._files.close()
    last = max(int(path.name[:12]) for path in tmp_path.glob("*.segment"))
    (tmp_path / name_of(last + 1)).write_bytes(bytes(100))
    for _ in range(3):
        log = opened(tmp_path)
        assert found(log) == {2: (b"", b"x" * 2200)}
        log._files.close()


def test_nothing_is_removed_that_says_what_became_of_a_missing_key(tmp_path: Path) -> None:
    without_segment_2(tmp_path)
    log = opened(tmp_path)
    log.write([Drop(key) for key in (1, 3, 4, 100)])
    log._files.close()
    last = max(int(path.name[:12]) for path in tmp_path.glob("*.segment"))
    (tmp_path / name_of(last + 1)).write_bytes(bytes(100))
    for _ in range(2):
        log = opened(tmp_path)
        assert list(dict(log.items())) == [2]
        log._files.close()


def four_segments(path: Path) -> None:
    """One living key in each of segments 1..4, and a checkpoint that covers them."""
    log = opened(path)
    for key in range(1, 5):
        log.write([Put(key, b"old", b"", b"x" * 2200)])
    log.close()


def without_segment_2(path: Path) -> None:
    """As four_segments(); the second vanished, and something was written since."""
    four_segments(path)
    (path / name_of(2)).unlink()
    log = opened(path)
    log.write([Put(100, b"new", b"", b"")])
    log.close()


MISSED = "spool: segment 2 is missing, and was needed by no. 2"


@pytest.mark.parametrize("ends", ["closed", "killed"])
def test_a_key_of_a_vanished_segment_stays_known_until_it_is_dropped(
    tmp_path: Path, ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    four_segments(tmp_path)
    (tmp_path / name_of(2)).unlink()
    expected = {1: b"old", 2: b"old", 3: b"old", 4: b"old"}
    for key in range(100, 104):
        caplog.clear()
        log = opened(tmp_path, key_name="no. {}".format)
        assert MISSED in caplog.messages
        assert dict(log.items()) == expected
        with pytest.raises(CorruptFrame, match=r"^segment 2 is missing$"):
            log.head(2)
        log.write([Put(key, b"new", b"", b"x" * 2200), Amend(2, b"%d" % key)])
        expected |= {key: b"new", 2: b"%d" % key}
        log.run(Rounds(3))
        if ends == "closed":
            log.close()
        else:
            log._files.close()
    log = opened(tmp_path)
    log.write([Drop(2)])
    log.close()
    del expected[2]
    caplog.clear()
    log = opened(tmp_path)
    assert dict(log.items()) == expected
    assert caplog.messages == []
    log.close()


def test_the_end_of_such_a_key_outlives_the_checkpoint_that_has_it(tmp_path: Path) -> None:
    without_segment_2(tmp_path)
    log = opened(tmp_path)
    for start in (200, 300, 400):
        for key in range(start, start + 10):  # a segment each, where nothing is needed ...
            log.write([Put(key, b"", b"", b"x" * 2200)])
            log.write([Drop(key)] if key != 205 else [Drop(key), Drop(2)])  # ... but this
        log.run(Rounds(1))
        log._files.close()  # killed
        log = opened(tmp_path)
        assert [key for key, _ in log.items()] == [1, 3, 4, 100]
    log.close()


def test_a_segment_that_is_brought_back_makes_its_keys_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four_segments(tmp_path)
    kept = (tmp_path / name_of(2)).rename(tmp_path / "elsewhere")
    log = opened(tmp_path)
    log.write([Put(100, b"new", b"", b""), Amend(2, b"newer")])
    log.close()
    kept.rename(tmp_path / name_of(2))
    for _ in range(2):
        log = opened(tmp_path)
        assert dict(log.items())[2] == b"newer"
        assert b"".join(log.body(2)) == b"x" * 2200
        caplog.clear()
        log.compact()
        log.close()
    assert caplog.messages == []


def test_chunks_of_a_vanished_segment_are_told_with_their_keys_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = opened(tmp_path)
    for seq in range(3):
        log.write([Chunk(7, seq, b"x" * 2200)])
    log.write([Put(7, b"", b"", b"last", 3)])
    log.close()
    (tmp_path / name_of(2)).unlink()
    log = opened(tmp_path)
    assert "spool: segment 2 is missing, and was needed by 7" in caplog.messages
    log.close()


# Lazily.


def test_new_keys_may_be_written_before_the_old_ones_are_there(tmp_path: Path) -> None:
    expected = fill(tmp_path)
    for without in (False, True):
        if without:
            forget_checkpoint(tmp_path)
        spool = opened(tmp_path, lazy=True)
        key = spool.new_key()
        assert key > max(expected)
        spool.write([Put(key, b"new", b"", b"body")])
        assert found(spool) == {key: (b"new", b"body")}
        assert loaded(spool) == {k: state for k, (state, _) in expected.items()}
        expected[key] = (b"new", b"body")
        assert found(spool) == expected
        spool.close()


def test_what_was_given_out_may_end_before_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices_of(3, monkeypatch)
    expected = fill(tmp_path)
    spool = opened(tmp_path, lazy=True)
    seen = set()
    for batch in spool.load():
        for key, _ in batch:
            seen.add(key)
            if key % 2:
                spool.write([Drop(key)])
                del expected[key]
            else:
                spool.write([Amend(key, b"later")])
                expected[key] = (b"later", expected[key][1])
        spool.run(Rounds(1))
    assert seen >= expected.keys()
    assert found(spool) == expected
    spool.close()
    spool = opened(tmp_path)
    assert found(spool) == expected
    spool.close()


def test_a_spool_closed_while_loading_has_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices_of(3, monkeypatch)
    expected = fill(tmp_path)
    for without in (False, True):
        if without:
            forget_checkpoint(tmp_path)
        spool = opened(tmp_path, lazy=True)
        loading = spool.load()
        next(loading)
        key = spool.new_key()
        spool.write([Put(key, b"new", b"", b"body")])
        expected[key] = (b"new", b"body")
        spool.close()
    spool = opened(tmp_path)
    assert found(spool) == expected
    spool.close()


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_a_clock_that_went_back_gives_no_key_twice(tmp_path: Path, with_checkpoint: bool) -> None:
    spool = opened(tmp_path, clock=lambda: 1000.0)
    keys = [spool.new_key() for _ in range(20)]
    for key in keys:
        spool.write([Put(key, b"", b"", b"x" * 1000)])
    spool.close()
    if not with_checkpoint:
        forget_checkpoint(tmp_path)
    spool = opened(tmp_path, clock=lambda: 1.0, lazy=True)
    assert spool.new_key() > max(keys)
    spool.close()


# While it is being written.


def slices_of(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (spool.index, spool.loading):
        monkeypatch.setattr(module, "SLICE_KEYS", count)


class History:
    """A spool and the dict it should equal, driven by chance."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.expected: Found = {}
        self.time = 1.0
        self.spool = self.open()

    def open(self, lazy: bool = False) -> Spool:
        options = {"checkpoint_bytes": 3000, "compact_rate_bytes_s": 1e12, "lazy": lazy}
        return opened(self.path, clock=self.clock, sync=lambda fd: None, **options)

    def clock(self) -> float:
        self.time += 0.001
        return self.time

    def step(self) -> None:
        chance, write = self.chance, self.spool.write
        living = sorted(self.expected)
        what = chance.random()
        if what < 0.35 or not living:
            key = self.spool.new_key()
            body = bytes(chance.randrange(900))
            if what < 0.05:
                write([Chunk(key, 0, body)])
                write([Put(key, b"chunked", b"", b"end", 1)])
                self.expected[key] = (b"chunked", body + b"end")
            else:
                write([Put(key, b"first", b"", body)])
                self.expected[key] = (b"first", body)
        elif what < 0.5:
            key = chance.choice(living)
            state = b"%d" % chance.randrange(1000)
            write([Amend(key, state)])
            self.expected[key] = (state, self.expected[key][1])
        elif what < 0.8:
            key = chance.choice(living)
            write([Drop(key)])
            del self.expected[key]
        else:
            # A step of a compaction, and one of a checkpoint.
            self.spool.run(Rounds(1))

    def kill(self) -> None:
        """The process is no more.  What was written is there."""
        self.spool.write([])
        self.spool._files.close()

    def load(self) -> None:
        """Lazily, while other things go on."""
        before = set(self.expected)
        self.spool = self.open(lazy=True)
        hidden, self.expected = self.expected, {}
        given: set[int] = set()
        for batch in self.spool.load():
            for key, state in batch:
                assert key > max(given, default=0)
                given.add(key)
                assert hidden[key][0] == state
                self.expected[key] = hidden.pop(key)
            for _ in range(self.chance.randrange(8)):
                self.step()
            there = {key: state for key, state in self.spool.items() if key not in hidden}
            assert there == {key: state for key, (state, _) in self.expected.items()}
        assert not hidden, sorted(hidden)
        assert given == before


@pytest.mark.parametrize("seed", range(60))
def test_whatever_goes_on_while_it_is_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    slices_of(3, monkeypatch)
    history = History(tmp_path, seed)
    for _ in range(6):
        for _ in range(history.chance.randrange(80)):
            history.step()
        assert found(history.spool) == history.expected
        if history.chance.random() < 0.7:
            history.kill()
        else:
            history.spool.close()
        if history.chance.random() < 0.3:
            forget_checkpoint(tmp_path)
        history.load()
        assert found(history.spool) == history.expected
    history.spool.close()
    forget_checkpoint(tmp_path)
    spool = opened(tmp_path)
    assert found(spool) == history.expected
    spool.close()


@pytest.mark.parametrize("vanished", [3, 4])
def test_what_is_written_outlives_the_segment_of_the_position(
    tmp_path: Path, vanished: int
) -> None:
    """Else the log went on in one that the checkpoint covers, and that no start would read."""
    log = opened(tmp_path)
    for key in range(1, 5):  # a segment each
        log.write([Put(key, b"old", b"", b"x" * 2200)])
    log.close()
    (tmp_path / name_of(vanished)).unlink()
    log = opened(tmp_path)
    log.write([Put(5, b"new", b"", b"body"), Amend(1, b"newer")])
    log._files.close()  # killed
    log = opened(tmp_path)
    states = dict(log.items())
    assert (states[5], states[1]) == (b"new", b"newer")
    assert b"".join(log.body(5)) == b"body"
    log.close()


def test_what_the_tail_says_again_of_a_checkpoint_comes_in_small_lists_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As compaction does, with all that a checkpoint knew."""
    slices_of(5, monkeypatch)
    log = opened(tmp_path)
    for key in range(1, 101):
        log.write([Put(key, b"first", b"", b"")])
    log.close()
    log = opened(tmp_path)
    for key in range(1, 100):
        log.write([Put(key, b"again", b"", b"")])
    log._files.close()  # killed
    log = opened(tmp_path, lazy=True)
    lists = list(log.load())
    assert max(map(len, lists)) <= 10
    assert [key for batch in lists for key, _ in batch] == list(range(1, 101))
    log.close()


@pytest.mark.parametrize("fails_after", range(1, 40, 3))
@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_what_is_written_during_a_start_outlives_a_sync_that_fails_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_checkpoint: bool, fails_after: int
) -> None:
    """A start reads what was there when it began: not what the log has gone on to write."""
    monkeypatch.setattr(spool.recovery, "_STEP_WORK", 1)
    disk = FaultyDisk(tmp_path / "spool")
    log = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    expected = dict.fromkeys(range(1, 11), b"old")
    log.write([Put(key, b"old", b"", b"x" * 300) for key in expected])
    log.close()
    if not with_checkpoint:
        forget_checkpoint(disk.path)
    log = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES, lazy=True)
    steps, ended = log.load(), False
    for number in range(40):
        key = log.new_key()
        if number == fails_after:
            disk.sync_errors = [errno.EIO]
            with pytest.raises(SpoolFailed):
                log.write([Put(key, b"refused", b"", b"")])
        else:
            log.write([Put(key, b"first", b"", b"y" * 700)])
            log.write([Amend(key, b"newest")])
            expected[key] = b"newest"
        ended = ended or next(steps, None) is None
        there = dict(log.items())
        assert {k: there[k] for k in expected if k > 10} == {
            k: state for k, state in expected.items() if k > 10
        }
    assert ended
    log._files.close()  # killed
    log = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    assert dict(log.items()) == expected
    log.close()


@pytest.mark.parametrize("calls", range(12))
def test_a_crash_while_it_is_written_leaves_the_old_one_or_the_new(
    tmp_path: Path, calls: int
) -> None:
    disk = FaultyDisk(tmp_path / "spool", seed=calls)
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    spool.write([Put(1, b"one", b"", b"body")])
    spool.close()
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    spool.write([Put(2, b"two", b"", b"body")])
    disk.calls_left = calls
    with contextlib.suppress(Crash):
        spool.close()
    disk.crash()
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    assert dict(spool.items()) == {1: b"one", 2: b"two"}
    spool.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_a_checkpoint_stops_nothing(
    tmp_path: Path, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FaultyDisk(tmp_path / "spool")
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    spool.write([Put(1, b"one", b"", b"body")])
    disk.write_error = error
    with caplog.at_level(logging.WARNING):
        spool.close()
    assert "no checkpoint could be written" in caplog.text
    disk.write_error = 0
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    assert dict(spool.items()) == {1: b"one"}
    assert not (disk.path / "checkpoint.new").exists()
    spool.close()


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_loading_goes_on_after_the_disk_refused_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_checkpoint: bool
) -> None:
    """Files that cannot be opened for want of descriptors, and a checkpoint that reads badly."""
    slices_of(3, monkeypatch)
    expected = fill(tmp_path)
    if not with_checkpoint:
        forget_checkpoint(tmp_path)
    refusals = list(range(2, 60, 3))
    calls = []

    class Refusing(Files):
        def read(self, fd: int, offset: int, count: int) -> bytes:
            calls.append(fd)
            if armed and len(calls) in refusals:
                raise OSError(errno.ENOMEM, "not now")
            return super().read(fd, offset, count)

    armed: list[bool] = []
    spool = opened(tmp_path, lazy=True, files=Refusing)
    calls.clear()
    armed.append(True)
    seen: dict[int, bytes] = {}
    failures = 0
    while True:
        try:
            for batch in spool.load():
                assert not seen.keys() & dict(batch).keys()
                seen.update(batch)
            break
        except OSError:
            failures += 1
    assert failures > 0
    assert seen == {key: state for key, (state, _) in expected.items()}
    armed.clear()
    assert found(spool) == expected
    spool.close()
