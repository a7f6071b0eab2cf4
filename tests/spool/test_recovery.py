"""recovery.py: whatever became of the files, the spool opens and keeps all that was not touched."""

import logging
import os
import shutil
from pathlib import Path

import pytest

from spool import Amend, Chunk, CorruptFrame, Drop, Put, Spool, SpoolVersion
from spool.checkpoint import NAME
from spool.frame import Record
from spool.segment import FIRST, Header, header_block, name_of
from support.spools import forget_checkpoint

BATCHES: list[list[Record]] = [
    [Put(1, b"one", b"head 1", b"body 1")],
    [Put(2, b"two", b"head 2", b"body 2" * 20)],
    [Amend(1, b"one again")],
    [Chunk(3, 0, b"piece 0"), Chunk(3, 1, b"piece 1")],
    [Put(3, b"three", b"head 3", b"last", 2)],
    [Drop(2), Put(4, b"a report", b"head 4", b"body 4")],
    [Put(5, b"five", b"head 5", b"body 5")],
    [Amend(5, b"five again"), Amend(1, b"one at last")],
]


def write_all(path: Path, segment_bytes: int = 1 << 20) -> list[dict[int, bytes]]:
    """Write BATCHES one by one.  → what lives after none, the first, the first two, ..."""
    spool = Spool(path, segment_bytes=segment_bytes)
    states = [dict(spool.items())]
    for batch in BATCHES:
        spool.write(batch)
        states.append(dict(spool.items()))
    spool.close()
    forget_checkpoint(path)
    return states


def reopened(path: Path) -> Spool:
    """Without syncs, which are of no use to hundreds of short lives."""
    return Spool(path, sync=lambda fd: None)


def contents(path: Path) -> dict[int, tuple[bytes, bytes, bytes] | str]:
    """Everything in the spool: state, head and body, or "damaged"."""
    spool = reopened(path)
    found: dict[int, tuple[bytes, bytes, bytes] | str] = {}
    for key, state in spool.items():
        try:
            found[key] = (state, spool.head(key), b"".join(spool.body(key)))
        except CorruptFrame:
            found[key] = "damaged"
    spool.close()
    return found


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir(mode=0o700)


def frame_ends(raw: bytes) -> list[int]:
    """Offsets just past each frame of a whole segment, FIRST at the beginning."""
    ends = [FIRST]
    while ends[-1] < len(raw):
        ends.append(ends[-1] + 20 + int.from_bytes(raw[ends[-1] + 12 : ends[-1] + 16], "little"))
    return ends


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[dict[int, bytes]]]:
    """One segment with BATCHES in it, and what lives after each."""
    path = tmp_path_factory.mktemp("spool")
    states = write_all(path)
    return (path / name_of(1)).read_bytes(), states


def test_everything_is_there_again_after_reopening(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert contents(tmp_path) == {
        1: (b"one at last", b"head 1", b"body 1"),
        3: (b"three", b"head 3", b"piece 0piece 1last"),
        4: (b"a report", b"head 4", b"body 4"),
        5: (b"five again", b"head 5", b"body 5"),
    }


def test_a_log_cut_anywhere_keeps_all_whole_frames_before_the_cut(
    tmp_path: Path, written: tuple[bytes, list[dict[int, bytes]]]
) -> None:
    raw, states = written
    ends = frame_ends(raw)
    for cut in [*range(0, FIRST, 50), *range(FIRST - 2, len(raw) + 1)]:
        (tmp_path / name_of(1)).write_bytes(raw[:cut])
        whole = max(0, sum(end <= cut for end in ends) - 1)
        spool = reopened(tmp_path)
        assert dict(spool.items()) == states[whole], cut
        # And the log goes on cleanly from there.
        spool.write([Put(99, b"after", b"", b"")])
        spool.close()
        spool = reopened(tmp_path)
        assert dict(spool.items()) == {**states[whole], 99: b"after"}, cut
        assert spool.counters.lost_frames == 0
        spool.close()
        empty(tmp_path)


def test_a_flipped_byte_costs_the_frame_it_is_in_and_no_other(
    tmp_path: Path, written: tuple[bytes, list[dict[int, bytes]]]
) -> None:
    raw, _ = written
    ends = frame_ends(raw)
    whole = contents_of(tmp_path, raw)
    for at in range(FIRST, len(raw), 3):
        damaged = bytearray(raw)
        damaged[at] ^= 0x40
        hit = next(n for n in range(len(BATCHES)) if at < ends[n + 1])
        touched = {record.key for record in BATCHES[hit]}
        found = contents_of(tmp_path, bytes(damaged))
        assert {k: v for k, v in found.items() if k not in touched} == {
            k: v for k, v in whole.items() if k not in touched
        }, at
        # Of those it touches an older state may be left, and the dropped may be back; never junk.
        for key in found.keys() & whole.keys() & touched:
            assert found[key] == "damaged" or found[key][1:] == whole[key][1:], at


def contents_of(path: Path, raw: bytes) -> dict[int, tuple[bytes, bytes, bytes] | str]:
    empty(path)
    (path / name_of(1)).write_bytes(raw)
    return contents(path)


def test_flipped_header_bytes_cost_nothing(
    tmp_path: Path, written: tuple[bytes, list[dict[int, bytes]]]
) -> None:
    raw, _ = written
    whole = contents_of(tmp_path, raw)
    for at in [*range(45), *range(510, 560)]:
        damaged = bytearray(raw)
        damaged[at] ^= 0xFF
        assert contents_of(tmp_path, bytes(damaged)) == whole, at


def test_inserted_bytes_and_a_doubled_head_cost_nothing_but_what_they_touch(
    tmp_path: Path, written: tuple[bytes, list[dict[int, bytes]]]
) -> None:
    raw, _ = written
    whole = contents_of(tmp_path, raw)
    for end in frame_ends(raw):
        assert contents_of(tmp_path, raw[:end] + b"inserted" + raw[end:]) == whole
    assert contents_of(tmp_path, b"+" + raw) == whole
    assert contents_of(tmp_path, raw[:1500] + raw) == whole
    assert contents_of(tmp_path, raw + b"junk" * 1000) == whole


def test_a_second_copy_of_old_frames_revives_nothing(
    tmp_path: Path, written: tuple[bytes, list[dict[int, bytes]]]
) -> None:
    raw, _ = written
    whole = contents_of(tmp_path, raw)
    for end in frame_ends(raw):
        # Among them: the Put of key 2 once more, without its Drop.
        assert contents_of(tmp_path, raw + raw[FIRST:end]) == whole


def test_lost_frames_are_counted_and_logged(
    tmp_path: Path,
    written: tuple[bytes, list[dict[int, bytes]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    raw, _ = written
    ends = frame_ends(raw)
    damaged = bytearray(raw)
    damaged[ends[2] + 1] ^= 1
    damaged[ends[3] + 14] ^= 1
    # The beginning of a frame more.
    (tmp_path / name_of(1)).write_bytes(damaged + damaged[FIRST : FIRST + 8] + b"torn")
    spool = Spool(tmp_path)
    counters = spool.counters
    assert counters.lost_frames == 2
    assert counters.lost_bytes == ends[4] - ends[2]
    assert counters.torn_bytes == 12
    assert "2 frames lost" in caplog.text
    assert "torn tail of 12 bytes" in caplog.text
    spool.close()


def test_zeros_behind_the_last_frame_are_the_end_and_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Room that was made ahead of need."""
    states = write_all(tmp_path)
    path = tmp_path / name_of(1)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(100_000))
    spool = Spool(tmp_path)
    assert (dict(spool.items()), spool.counters.torn_bytes) == (states[-1], 0)
    spool.write([Put(99, b"after", b"", b"")])
    spool.close()
    assert path.stat().st_size == size + 100_000
    assert dict(reopened(tmp_path).items()) == {**states[-1], 99: b"after"}
    assert not caplog.records


def many_segments(path: Path, count: int = 6) -> None:
    """One living key in each of segments 1..count."""
    spool = Spool(path, segment_bytes=2048)
    for key in range(1, count + 1):
        spool.write([Put(key, b"state", b"head", b"b" * 1500)])
    assert spool.segments == count
    spool.close()
    forget_checkpoint(path)


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("damage", ["vanished", "empty", "truncated", "zeros", "junk", "headless"])
def test_a_damaged_segment_never_stops_the_start(
    tmp_path: Path, number: int, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    many_segments(tmp_path)
    path = tmp_path / name_of(number)
    raw = path.read_bytes()
    if damage == "vanished":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": raw[:1200],
                "zeros": bytes(len(raw)),
                "junk": os.urandom(len(raw)),
                "headless": raw[FIRST:],
            }[damage]
        )
    spool = Spool(tmp_path)
    kept = {number} if damage == "headless" else set()
    assert {key for key, _ in spool.items()} == ({1, 2, 3, 4, 5, 6} - {number}) | kept
    assert damage == "vanished" or caplog.text
    # The next segment says how many frames a sealed one had: its own seal, and the Put.
    whole_frames = 1 + (number > 1)
    lost = {"empty": whole_frames, "zeros": whole_frames, "junk": whole_frames, "truncated": 1}
    assert spool.counters.lost_frames == (lost.get(damage, 0) if number < 6 else 0)
    spool.write([Put(99, b"after", b"", b"")])
    spool.close()
    spool = Spool(tmp_path)
    assert 99 in dict(spool.items())
    spool.close()


def test_a_file_in_which_nothing_verifies_is_left_for_people(tmp_path: Path) -> None:
    many_segments(tmp_path)
    junk = os.urandom(5000)
    (tmp_path / name_of(3)).write_bytes(junk)
    spool = Spool(tmp_path)
    spool.write([Drop(key) for key, _ in spool.items()])
    spool.close()
    Spool(tmp_path).close()
    assert (tmp_path / name_of(3)).read_bytes() == junk


def test_a_segment_under_a_wrong_number_revives_nothing(tmp_path: Path) -> None:
    many_segments(tmp_path)
    spool = Spool(tmp_path)
    spool.write([Drop(2)])
    shutil.copy(tmp_path / name_of(2), tmp_path / name_of(90))
    spool.close()
    spool = Spool(tmp_path, segment_bytes=2048)
    assert 2 not in dict(spool.items())
    spool.write([Put(99, b"after", b"", b"x" * 5000)])
    assert (tmp_path / name_of(91)).exists()
    spool.close()


def test_a_segment_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    many_segments(tmp_path / "spool")
    path = tmp_path / "spool" / name_of(6)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    spool = Spool(tmp_path / "spool")
    assert {key for key, _ in spool.items()} == {1, 2, 3, 4, 5}
    spool.write([Put(99, b"after", b"", b"")])
    spool.close()
    assert (tmp_path / "elsewhere").read_bytes() == before


def test_a_newer_version_is_refused_and_nothing_touched(tmp_path: Path) -> None:
    many_segments(tmp_path)
    newer = tmp_path / name_of(7)
    newer.write_bytes(header_block(Header(2, 7, bytes(16))) + b"something else altogether")
    (tmp_path / "lock").unlink()
    tmp_path.chmod(0o755)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SpoolVersion, match="version 2"):
        Spool(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_damaged_version_number_is_damage_and_no_newer_version(tmp_path: Path) -> None:
    write_all(tmp_path)
    path = tmp_path / name_of(1)
    raw = bytearray(path.read_bytes())
    raw[8] = 2
    path.write_bytes(raw)
    assert len(contents(tmp_path)) == 4


def test_other_files_in_the_directory_are_let_be(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert len(contents(tmp_path)) == 4
    assert (tmp_path / "notes.txt").read_text() == "hello"


def test_a_frame_shaped_string_inside_a_body_is_never_replayed(tmp_path: Path) -> None:
    """Also when the frame around it is damaged, and the reader goes looking inside."""
    write_all(tmp_path / "theirs")
    foreign = (tmp_path / "theirs" / name_of(1)).read_bytes()
    ours = tmp_path / "ours"
    spool = Spool(ours)
    spool.write([Put(50, b"state", b"head", foreign + foreign[FIRST:])])
    spool.write([Put(51, b"state", b"head", b"body")])
    spool.close()
    forget_checkpoint(ours)
    path = ours / name_of(1)
    raw = bytearray(path.read_bytes())
    raw[FIRST + 22] ^= 1
    path.write_bytes(raw)
    assert set(contents(ours)) == {51}


def test_frames_of_an_earlier_life_of_a_file_are_never_replayed(tmp_path: Path) -> None:
    """A spent segment that is used again keeps its old bytes behind the new ones."""
    many_segments(tmp_path, count=3)
    old = (tmp_path / name_of(1)).read_bytes()
    spool = Spool(tmp_path)
    spool.write([Drop(1), Drop(2), Drop(3)])
    spool.write([Put(9, b"new", b"", b"x" * 100)])
    spool.close()
    last = max(tmp_path.glob("*.segment"))
    raw = last.read_bytes()
    last.write_bytes(raw + old[FIRST:])
    assert set(contents(tmp_path)) == {9}


def test_chunks_whose_put_never_came_are_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Chunk(1, 0, b"x" * 1000)])
    assert spool.living_bytes > 1000
    spool.close()
    spool = Spool(tmp_path)
    assert (list(spool.items()), spool.living_bytes) == ([], 0)
    spool.close()


def test_a_put_whose_chunk_is_damaged_is_listed_but_gives_no_body(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for seq in range(3):
        spool.write([Chunk(1, seq, b"piece %d" % seq * 10)])
    spool.write([Put(1, b"state", b"head", b"last", 3)])
    path = tmp_path / name_of(1)
    raw = bytearray(path.read_bytes())
    raw[frame_ends(raw)[1] + 40] ^= 1
    path.write_bytes(raw)
    pieces = spool.body(1)
    assert next(pieces) == b"piece 0" * 10
    with pytest.raises(CorruptFrame):
        next(pieces)
    spool.close()
    forget_checkpoint(tmp_path)
    spool = Spool(tmp_path)
    assert list(spool.items()) == [(1, b"state")]
    assert spool.head(1) == b"head"
    with pytest.raises(CorruptFrame):
        spool.body(1)
    spool.close()


def test_content_that_is_damaged_while_we_run_is_not_given_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(1, b"state", b"head", b"body")])
    path = tmp_path / name_of(1)
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    for ask in (spool.head, spool.body):
        with pytest.raises(CorruptFrame):
            ask(1)
    path.write_bytes(raw[:-3])
    with pytest.raises(CorruptFrame):
        spool.head(1)
    path.unlink()
    with pytest.raises(CorruptFrame):
        spool.head(1)
    spool.close()


def test_replay_holds_no_bodies(tmp_path: Path) -> None:
    import tracemalloc

    spool = Spool(tmp_path, sync=lambda fd: None)
    for key in range(1, 2001):
        spool.write([Put(key, b"state", b"head", b"x" * 20_000)], wait=False)
        if key % 100 == 0:
            spool.sync()
    spool.close()
    tracemalloc.start()
    spool = Spool(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(spool) == 2000
    assert peak < 6_000_000  # of 40 MB in the log
    spool.close()


def test_opening_and_closing_writes_no_log(tmp_path: Path) -> None:
    write_all(tmp_path)
    before = (tmp_path / name_of(1)).read_bytes()
    for _ in range(3):
        Spool(tmp_path).close()
    assert (tmp_path / name_of(1)).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [name_of(1), NAME, "lock"]


def test_a_clean_log_is_opened_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many_segments(tmp_path)
    caplog.clear()
    Spool(tmp_path).close()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
