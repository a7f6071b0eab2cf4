"""audit.py: what a damaged log says of itself, and that looking changes nothing."""

import os
import random
import shutil
from pathlib import Path
from zlib import crc32

import pytest

from spool import Amend, Chunk, CorruptFrame, Drop, Put, Spool, SpoolVersion
from spool.audit import (
    FOREIGN,
    HEADER_DAMAGED,
    LOST,
    MISNAMED,
    NOTHING,
    TORN,
    UNREADABLE,
    Audit,
    Finding,
)
from spool.checkpoint import NAME
from spool.frame import Record, encode, header
from spool.segment import FIRST, Header, find_header, header_block, name_of, tag_of
from spool.viewing import Viewed, holder_in

BATCHES: list[list[Record]] = [
    [Put(1, b"one", b"head 1", b"body 1")],
    [Put(2, b"two", b"head 2", b"body 2" * 20)],
    [Amend(1, b"one again")],
    [Chunk(3, 0, b"piece 0"), Chunk(3, 1, b"piece 1")],
    [Put(3, b"three", b"head 3", b"last", 2)],
    [Drop(2), Put(4, b"a report", b"head 4", b"body 4")],
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed spool with BATCHES in its one segment."""
    spool = Spool(tmp_path / "spool")
    for batch in BATCHES:
        spool.write(batch)
    spool.close()
    return tmp_path / "spool"


def frame_ends(raw: bytes) -> list[int]:
    ends = [FIRST]
    while ends[-1] < len(raw):
        ends.append(ends[-1] + 20 + int.from_bytes(raw[ends[-1] + 12 : ends[-1] + 16], "little"))
    return ends


def flip(file: Path, *offsets: int) -> None:
    raw = bytearray(file.read_bytes())
    for offset in offsets:
        raw[offset] ^= 1
    file.write_bytes(raw)


def findings(path: Path) -> list[Finding]:
    with Audit(path) as audit:
        return audit.findings


def several(path: Path, count: int = 4) -> None:
    """One living key in each of segments 1..count."""
    spool = Spool(path, segment_bytes=2048)
    for key in range(1, count + 1):
        spool.write([Put(key, b"state", b"head", b"b" * 1500)])
    spool.close()


def picture(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Name, mode, size, and both times of change of everything there."""
    found = {}
    for file in [path, *path.rglob("*")]:
        about = file.stat()
        found[str(file)] = (about.st_mode, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return found


def test_a_whole_spool_is_shown_as_it_is(path: Path) -> None:
    with Audit(path) as audit:
        assert audit.holder is None
        assert audit.findings == []
        assert audit.quarantined == []
        assert audit.keys() == [1, 3, 4]
        assert audit.state(1) == b"one again"
        assert (audit.head(3), b"".join(audit.body(3))) == (b"head 3", b"piece 0piece 1last")
        assert audit.missing(3) == []
        (segment,) = audit.segments()
        size = (path / name_of(1)).stat().st_size
        assert segment[:4] == (1, size, size, len(BATCHES))
        assert segment.living_bytes == audit.living_bytes > 0
        assert 0 < segment.dead_share < 1
        assert audit.disk_bytes >= size
        with pytest.raises(KeyError):
            audit.head(2)


def test_living_bytes_are_those_the_spool_counts(path: Path) -> None:
    spool = Spool(path)
    counted = spool.living_bytes
    spool.close()
    with Audit(path) as audit:
        assert audit.living_bytes == counted


def test_a_damaged_frame_is_found_where_it_is_with_the_keys_it_names(path: Path) -> None:
    file = path / name_of(1)
    ends = frame_ends(file.read_bytes())
    flip(file, ends[3] - 2, ends[6] - 1)
    named = (("AMEND", 1),)
    last = (("DROP", 2), ("PUT", 4))
    assert findings(path) == [
        Finding(LOST, 1, ends[2], ends[3] - ends[2], 1, named),
        # Nothing behind it verifies: it could as well be a write that was not finished.
        Finding(TORN, 1, ends[5], ends[6] - ends[5], 0, last),
    ]


def test_two_damaged_frames_side_by_side_are_one_finding_of_two(path: Path) -> None:
    file = path / name_of(1)
    ends = frame_ends(file.read_bytes())
    flip(file, ends[0] + 25, ends[1] + 25)
    (found,) = findings(path)
    assert found[:5] == (LOST, 1, FIRST, ends[2] - FIRST, 2)


def test_every_flipped_byte_of_a_frame_is_found(path: Path) -> None:
    file = path / name_of(1)
    raw = file.read_bytes()
    for at in range(FIRST, len(raw)):
        flip(file, at)
        assert len(findings(path)) == 1, at
        file.write_bytes(raw)


def test_every_cut_is_found_unless_it_is_between_two_frames(path: Path) -> None:
    file = path / name_of(1)
    raw = file.read_bytes()
    ends = frame_ends(raw)
    for size in range(FIRST, len(raw)):
        file.write_bytes(raw[:size])
        assert [found.what for found in findings(path)] == ([] if size in ends else [TORN]), size


def test_zeros_behind_the_last_frame_are_no_damage(path: Path) -> None:
    file = path / name_of(1)
    size = file.stat().st_size
    os.truncate(file, size + 100_000)
    with Audit(path) as audit:
        assert audit.findings == []
        assert audit.segments()[0][1:3] == (size + 100_000, size)


def test_bytes_put_between_two_frames_are_found_though_nothing_is_lost(path: Path) -> None:
    file = path / name_of(1)
    raw = file.read_bytes()
    at = frame_ends(raw)[2]
    file.write_bytes(raw[:at] + b"inserted" + raw[at:])
    assert findings(path) == [Finding(FOREIGN, 1, at, 8, 0)]


def test_a_missing_piece_is_told_by_its_key_and_number(path: Path) -> None:
    file = path / name_of(1)
    flip(file, frame_ends(file.read_bytes())[4] - 1)
    with Audit(path) as audit:
        assert [found.named for found in audit.findings] == [(("CHUNK", 3),)]
        assert audit.keys() == [1, 3, 4]
        assert audit.missing(3) == [0, 1]
        assert audit.missing(1) == []
        with pytest.raises(CorruptFrame, match="misses pieces"):
            next(audit.body(3))


@pytest.mark.parametrize("damage", ["header", "junk", "misnamed", "link", "empty", "truncated"])
def test_what_is_wrong_with_a_whole_file_is_said(tmp_path: Path, damage: str) -> None:
    several(tmp_path)
    file = tmp_path / name_of(2)
    raw = file.read_bytes()
    size = len(raw)
    if damage == "header":
        flip(file, 20, 532)
        expected = [Finding(HEADER_DAMAGED, 2, 0, FIRST, 0)]
    elif damage == "junk":
        file.write_bytes(b"junk" * 1000)
        expected = [Finding(LOST, 2, FIRST, size - FIRST, 2), Finding(NOTHING, 2, 0, 4000, 0)]
    elif damage == "misnamed":
        file.rename(tmp_path / name_of(9))
        expected = [Finding(MISNAMED, 9, 0, size, 0)]
    elif damage == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
        expected = [Finding(UNREADABLE, 2, 0, file.lstat().st_size, 0)]
    else:
        file.write_bytes(b"" if damage == "empty" else raw[: size - 5])
        lost = 2 if damage == "empty" else 1
        start = FIRST if damage == "empty" else size - 5 - (1500 - 5) - 41
        assert damage == "empty" or raw[start : start + 8] == raw[FIRST : FIRST + 8]
        expected = [Finding(LOST, 2, start, size - start, lost)]
        if damage == "truncated":
            expected = [expected[0]._replace(named=(("PUT", 2),))]
    found = findings(tmp_path)
    assert found == expected
    with Audit(tmp_path) as audit:
        keys = audit.keys()
    # By the checkpoint a start holds a key of what is gone for damaged, while it has not written.
    assert keys == ([1, 2, 3, 4] if damage in ("header", "misnamed") else [1, 3, 4])
    spool = Spool(tmp_path)
    assert [key for key, _ in spool.items()] == keys
    spool.close()


# What lives by the checkpoint.


def damage_frame(path: Path, frame: int) -> None:
    """The last byte of one of the frames of BATCHES."""
    file = path / name_of(1)
    flip(file, frame_ends(file.read_bytes())[frame + 1] - 1)


def started(path: Path) -> dict[int, bytes]:
    """What a start finds of a copy of the spool: its keys and their states."""
    copy = path.parent / "copy"
    shutil.copytree(path, copy)
    spool = Spool(copy)
    found = dict(spool.items())
    spool.close()
    shutil.rmtree(copy)
    return found


def test_a_key_whose_put_is_damaged_lives_by_the_checkpoint_as_at_a_start(path: Path) -> None:
    damage_frame(path, 0)
    with Audit(path) as audit:
        assert [found.named for found in audit.findings] == [(("PUT", 1),)]
        assert {key: audit.state(key) for key in audit.keys()} == started(path)  # noqa: SIM118
        assert [key for key in (1, 3, 4) if audit.lacks_put(key)] == [1]
        assert audit.state(1) == b"one again"
        assert audit.missing(1) == []
        assert list(audit.remains(1)) == []
        with pytest.raises(CorruptFrame, match=r"key 1 is not in the log$"):
            audit.head(1)
        with pytest.raises(CorruptFrame):
            next(audit.body(1))
        with pytest.raises(KeyError):
            audit.lacks_put(2)


def test_the_pieces_of_a_key_without_its_put_are_what_remains(path: Path) -> None:
    damage_frame(path, 4)
    with Audit(path) as audit:
        assert list(audit.remains(3)) == [b"piece 0", b"piece 1"]


def test_a_damaged_piece_is_missed_though_the_checkpoint_knows_its_place(path: Path) -> None:
    damage_frame(path, 3)
    with Audit(path) as audit:
        assert audit.missing(3) == [0, 1]


@pytest.mark.parametrize("end", [Drop(1), Amend(1, b"newer"), Put(1, b"new", b"", b"")])
def test_what_stands_behind_the_checkpoint_counts_for_such_a_key_too(
    path: Path, end: Record
) -> None:
    checkpoint = (path / NAME).read_bytes()
    spool = Spool(path)
    spool.write([end])
    spool.close()
    (path / NAME).write_bytes(checkpoint)  # a killed process writes none
    damage_frame(path, 0)
    with Audit(path) as audit:
        found = {key: audit.state(key) for key in audit.keys()}  # noqa: SIM118
        assert [key for key in found if audit.lacks_put(key)] == [1] * isinstance(end, Amend)
    assert found == started(path)
    states = {Drop: None, Amend: b"newer", Put: b"new"}
    assert found.get(1) == states[type(end)]


@pytest.mark.parametrize("fault", ["first block", "last block", "stale", "another spool's"])
def test_a_checkpoint_that_is_of_no_use_is_ignored_as_at_a_start(path: Path, fault: str) -> None:
    file = path / NAME
    if fault == "first block":
        flip(file, 30)
    elif fault == "last block":
        flip(file, file.stat().st_size - 1)
    elif fault == "stale":
        os.truncate(path / name_of(1), (path / name_of(1)).stat().st_size - 1)
    else:
        several(path.parent / "other")
        file.write_bytes((path.parent / "other" / NAME).read_bytes())
    damage_frame(path, 0)
    with Audit(path) as audit:
        keys = audit.keys()
    assert 1 not in keys
    assert keys == [*started(path)]


@pytest.mark.parametrize(
    "since", [[], [Amend(1, b"newest")], [Drop(1)], [Put(2, b"new", b"", b"")]]
)
@pytest.mark.parametrize("frame", [2, 3], ids=["AMEND", "DROP"])
def test_the_checkpoints_word_stands_where_what_it_covers_is_damaged(
    tmp_path: Path, frame: int, since: list[Record]
) -> None:
    path = tmp_path / "spool"
    spool = Spool(path)
    spool.write([Put(1, b"first", b"head", b"body")])
    spool.write([Put(2, b"first", b"head", b"body")])
    spool.write([Amend(1, b"newer")])
    spool.write([Drop(2)])
    spool.write([Put(3, b"first", b"head", b"body")])
    spool.close()
    checkpoint = (path / NAME).read_bytes()
    spool = Spool(path)
    spool.write(since)
    living_bytes = spool.living_bytes
    spool.close()
    (path / NAME).write_bytes(checkpoint)  # a killed process writes none
    damage_frame(path, frame)
    with Audit(path) as audit:
        assert {key: audit.state(key) for key in audit.keys()} == started(path)  # noqa: SIM118
        assert (2 in audit) == (since == [Put(2, b"new", b"", b"")])
        assert not any(map(audit.lacks_put, audit.keys()))
        assert audit.living_bytes == living_bytes
        assert [found.what for found in audit.findings] == [LOST]


@pytest.mark.parametrize("seed", range(30))
def test_an_audit_of_a_damaged_frame_agrees_with_a_start(tmp_path: Path, seed: int) -> None:
    """Whatever was written before the checkpoint and after it, and whatever is damaged."""
    chance = random.Random(seed)
    path = tmp_path / "spool"
    for rounds in range(2):
        spool = Spool(path, segment_bytes=4096, sync=lambda fd: None)
        for _ in range(60):
            living = [key for key, _ in spool.items()] or [1]
            key = chance.choice(living)
            fresh = chance.randrange(1, 200)
            record = chance.choice([Put(fresh, b"p%d" % fresh, b"", b"x" * 200)] * 3)
            if chance.random() < 0.6:
                record = chance.choice([Drop(key), Amend(key, b"%d" % chance.randrange(99))])
            spool.write([record])
            if chance.random() < 0.1:
                spool.compact()
        if rounds:
            spool._files.close()  # killed
        else:
            spool.close()
    file = chance.choice(sorted(path.glob("*.segment")))
    ends = frame_ends(file.read_bytes())
    flip(file, chance.choice(ends[1:-1]) - 1)
    with Audit(path) as audit:
        assert {key: audit.state(key) for key in audit.keys()} == started(path)  # noqa: SIM118


@pytest.mark.parametrize("gone", [2, 4])
def test_a_key_of_a_vanished_segment_is_held(tmp_path: Path, gone: int) -> None:
    path = tmp_path / "spool"
    several(path)
    (path / name_of(gone)).unlink()
    with Audit(path) as audit:
        assert audit.keys() == [*started(path)] == [1, 2, 3, 4]
        assert audit.lacks_put(gone)


def test_a_key_of_a_vanished_segment_has_ended_when_something_was_written(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    several(path)
    checkpoint = (path / NAME).read_bytes()
    (path / name_of(2)).unlink()
    spool = Spool(path)
    spool.write([Put(5, b"", b"", b"")])
    spool.close()
    (path / NAME).write_bytes(checkpoint)
    with Audit(path) as audit:
        assert audit.keys() == [*started(path)] == [1, 3, 4, 5]


def test_such_a_key_lives_on_when_the_checkpoint_says_that_the_segment_was_missing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool"
    several(path)
    (path / name_of(2)).unlink()
    for key in (5, 6):
        spool = Spool(path)
        spool.write([Put(key, b"", b"", b"")])
        spool.close()
        checkpoint = (path / NAME).read_bytes()
    spool = Spool(path)
    spool.write([Put(7, b"", b"", b"")])
    spool.close()
    (path / NAME).write_bytes(checkpoint)  # a killed process writes none
    with Audit(path) as audit:
        assert audit.keys() == [*started(path)] == [1, 2, 3, 4, 5, 6, 7]
        assert audit.lacks_put(2)


def test_the_holder_of_a_key_without_its_put_and_an_audit_beside_it_agree(path: Path) -> None:
    damage_frame(path, 0)
    spool = Spool(path)
    spool.write([Drop(4)])
    with Audit(path) as audit:
        assert audit.keys() == [key for key, _ in spool.items()] == [1, 3]
        assert audit.lacks_put(1)
    spool.write([Drop(1)])
    with Audit(path) as audit:
        assert audit.keys() == [3]
    spool.close()


def test_pieces_in_a_segment_that_vanished_are_missed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=2048)
    for n in range(3):
        spool.write([Chunk(7, n, b"x" * 1500)])
    spool.write([Put(7, b"state", b"head", b"last", 3)])
    spool.close()
    (tmp_path / name_of(2)).unlink()
    with Audit(tmp_path) as audit:
        assert audit.missing(7) == [1]


def test_looking_changes_nothing(path: Path) -> None:
    file = path / name_of(1)
    flip(file, FIRST + 30)
    with file.open("ab") as tail:
        tail.write(file.read_bytes()[FIRST : FIRST + 8] + b"torn")
    (path / "lock").unlink()
    path.chmod(0o755)
    before = picture(path)
    with Audit(path) as audit:
        assert [found.what for found in audit.findings] == [LOST, TORN]
        list(audit.body(4))
    assert picture(path) == before


def test_a_spool_in_use_is_read_with_its_holders_pid_and_no_torn_tail(path: Path) -> None:
    spool = Spool(path)
    spool.write([Put(50, b"state", b"head", b"body")])
    with (path / name_of(1)).open("ab") as tail:
        tail.write(b"a frame that is being written")
    before = picture(path)
    with Audit(path) as audit:
        assert audit.holder == os.getpid()
        assert audit.findings == []
        assert audit.keys() == [1, 3, 4, 50]
    assert picture(path) == before
    spool.close()


def test_what_the_holder_writes_and_removes_meanwhile_is_no_damage(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=2048)
    for key in range(1, 6):
        spool.write([Chunk(key, 0, b"x" * 1500)])
        spool.write([Put(key, b"state", b"head", b"b" * 100, 1)])
    told = 0

    def meanwhile(done: int, total: int) -> None:
        nonlocal told
        told += 1
        if told == 3:
            spool.write([Drop(key) for key in range(1, 5)])
            spool.write([Put(9, b"state", b"head", b"b" * 1500)])
            spool._sweep()

    with Audit(tmp_path, meanwhile) as audit:
        assert audit.findings == []
        assert audit.keys() == [5, 9]
        assert audit.missing(5) == []
        assert {s.number for s in audit.segments()} <= {
            int(file.stem) for file in tmp_path.glob("*.segment")
        }
    assert told > 3
    spool.close()


def test_a_segment_listed_before_it_had_its_header_is_no_damage(path: Path) -> None:
    spool = Spool(path)
    secret = find_header((path / name_of(1)).read_bytes()).secret  # type: ignore[union-attr]
    tag, body = tag_of(secret, 2), encode([Put(9, b"state", b"head", b"body")])
    (path / name_of(2)).touch(mode=0o600)

    def meanwhile(done: int, total: int) -> None:
        frame = header(tag, 1, len(body), crc32(body)) + body
        (path / name_of(2)).write_bytes(header_block(Header(1, 2, secret)) + frame)

    with Audit(path, meanwhile) as audit:
        assert audit.findings == []
        assert audit.keys() == [1, 3, 4, 9]
    spool.close()


def test_a_header_that_stays_damaged_is_told_though_somebody_has_the_spool(tmp_path: Path) -> None:
    several(tmp_path)
    flip(tmp_path / name_of(2), 20, 532)
    spool = Spool(tmp_path)
    with Audit(tmp_path) as audit:
        assert [found.what for found in audit.findings] == [HEADER_DAMAGED]
    spool.close()


@pytest.mark.parametrize("when", range(1, 6))
def test_a_segment_used_again_while_it_is_read_is_no_damage(tmp_path: Path, when: int) -> None:
    several(tmp_path)
    spool = Spool(tmp_path, segment_bytes=2048)
    spool.write([Drop(1), Drop(2)])
    told = 0

    def meanwhile(done: int, total: int) -> None:
        nonlocal told
        told += 1
        if told == when:
            for number in (1, 2):
                file = (tmp_path / name_of(number)).rename(tmp_path / f"spare-{number}")
                secret = find_header(file.read_bytes()).secret  # type: ignore[union-attr]
                life = header_block(Header(1, number + 8, secret)) + b"frames of a later life" * 50
                file.write_bytes(life)

    with Audit(tmp_path, meanwhile) as audit:
        assert audit.findings == []
        assert audit.keys() == [3, 4]
    assert told >= when
    spool.close()


def test_progress_ends_at_the_whole(path: Path) -> None:
    told: list[tuple[int, int]] = []
    with Audit(path, lambda done, total: told.append((done, total))):
        pass
    size = (path / name_of(1)).stat().st_size
    assert told[-1] == (size, size)
    assert told == sorted(told)


def test_a_newer_version_and_a_missing_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Audit(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    (tmp_path / name_of(1)).write_bytes(header_block(Header(2, 1, bytes(16))))
    with pytest.raises(SpoolVersion):
        Audit(tmp_path)


def test_a_viewed_directory_refuses_every_change(path: Path) -> None:
    files = Viewed(str(path))
    fd = files.open(name_of(1))
    attempts = [
        lambda: files.create("new"),
        lambda: files.remove(name_of(1)),
        lambda: files.open(name_of(1), writable=True),
        lambda: files.write(fd, [b"x"], 0),
        lambda: files.cut(fd, 0),
        files.lock,
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match=r"."):
            attempt()
    files.close_file(fd)
    files.close()


def test_the_holder_is_read_off_the_kernels_list_of_locks() -> None:
    device = os.makedev(0xFE, 0)
    locks = (
        "1: POSIX  ADVISORY  READ 1 fe:00:77 128 128\n"
        "2: FLOCK  ADVISORY  WRITE 4711 fe:00:77 0 EOF\n"
        "2: -> FLOCK  ADVISORY  WRITE 4712 fe:00:78 0 EOF\n"
        "3: OFDLCK ADVISORY  READ -1 00:06:9 0 EOF\n"
        "garbage\n"
    )
    assert holder_in(locks, device, 77) == 4711
    assert holder_in(locks, device, 78) is None
    assert holder_in(locks, os.makedev(0xFD, 0), 77) is None
    assert holder_in("", device, 77) is None
