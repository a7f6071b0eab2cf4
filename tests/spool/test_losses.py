"""losses.py: what a start or a compaction says of damage, and the keys that it names."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from spool import Amend, Chunk, Drop, Put, Spool
from spool.frame import Record, encode, header
from spool.losses import keys_named
from spool.segment import FIRST, name_of
from support.spools import forget_checkpoint


def frame_ends(raw: bytes) -> list[int]:
    """Offsets just past each frame of a whole segment, FIRST at the beginning."""
    ends = [FIRST]
    while ends[-1] < len(raw):
        ends.append(ends[-1] + 20 + int.from_bytes(raw[ends[-1] + 12 : ends[-1] + 16], "little"))
    return ends


def written(path: Path, *batches: list[Record]) -> list[int]:
    """A closed spool with `batches` in segment 1, and no checkpoint.  → where they end."""
    spool = Spool(path)
    for batch in batches:
        spool.write(batch)
    spool.close()
    forget_checkpoint(path)
    return frame_ends((path / name_of(1)).read_bytes())


def flip(path: Path, *offsets: int) -> None:
    raw = bytearray((path / name_of(1)).read_bytes())
    for offset in offsets:
        raw[offset] ^= 1
    (path / name_of(1)).write_bytes(raw)


def said(path: Path, caplog: pytest.LogCaptureFixture, key_name: Callable[[int], str]) -> str:
    """What a start logs of frames that are lost or torn."""
    Spool(path, key_name=key_name).close()
    lines = [r.message for r in caplog.records if "lost" in r.message or "torn" in r.message]
    (line,) = lines
    return line


def test_a_start_names_the_keys_of_damaged_frames(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = written(
        tmp_path,
        [Put(1, b"", b"", b"first")],
        [Put(2, b"", b"", b"damaged"), Amend(1, b"newer"), Chunk(3, 0, b"piece")],
        [Drop(1)],
        [Put(4, b"", b"", b"last")],
    )
    flip(tmp_path, ends[2] - 1, ends[3] - 5)
    assert said(tmp_path, caplog, "no. {}".format) == (
        f"spool: {name_of(1)}: 2 frames lost, {ends[3] - ends[1]} bytes, "
        "of PUT no. 2, AMEND no. 1, CHUNK no. 3, DROP no. 1"
    )


def test_no_more_than_twenty_are_named_and_the_rest_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = written(
        tmp_path, [Put(key, b"", b"", b"body") for key in range(1, 31)], [Put(99, b"", b"", b"")]
    )
    flip(tmp_path, ends[1] - 1)
    line = said(tmp_path, caplog, str)
    assert line.endswith(", PUT 19, PUT 20 and 10 more")
    assert line.count("PUT") == 20


def test_a_long_stretch_is_searched_in_part_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = written(
        tmp_path,
        *([Put(key, b"", b"", b"b" * 700_000)] for key in (1, 2, 3)),
        [Put(99, b"", b"", b"")],
    )
    flip(tmp_path, ends[1] - 1, ends[2] - 1, ends[3] - 1)
    assert said(tmp_path, caplog, str).endswith(", of PUT 1, PUT 2 in the first 1048576 bytes")


def test_what_names_nothing_is_counted_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = written(tmp_path, [Put(1, b"", b"", b"body")], [Put(2, b"", b"", b"")])
    flip(tmp_path, FIRST)
    assert said(tmp_path, caplog, str).endswith(f": 1 frames lost, {ends[1] - FIRST} bytes")


def test_a_torn_tail_is_cut_with_its_keys_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ends = written(tmp_path, [Put(1, b"", b"", b"body")], [Put(2, b"", b"", b"half " * 10)])
    file = tmp_path / name_of(1)
    file.write_bytes(file.read_bytes()[: ends[2] - 20])
    assert said(tmp_path, caplog, str).endswith(f" cut at {ends[1]}, of PUT 2")


def test_keys_are_read_from_damaged_bytes_as_far_as_they_can_be() -> None:
    tag = b"12345678"
    body = encode([Put(5, b"s", b"h", b"b" * 50), Drop(6), Amend(7, b"state")])
    frame = header(tag, 1, len(body), 0) + body
    whole = (("PUT", 5), ("DROP", 6), ("AMEND", 7))
    assert keys_named(frame, tag) == whole
    assert keys_named(b"junk" + frame + frame, tag) == whole
    for cut in range(len(frame)):
        named = keys_named(frame[:cut], tag)
        assert named == whole[: len(named)]
    for at in range(len(frame)):
        damaged = bytearray(frame)
        damaged[at] ^= 0xFF
        keys_named(bytes(damaged), tag)  # says something or nothing, and never fails
    assert keys_named(frame, b"another.") == ()
