"""FORMAT.rst is true: its example is what the code reads and writes."""

import re
from pathlib import Path
from zlib import crc32

import pytest

import spool
from spool import Amend, Drop, Put, Spool
from spool.frame import encode, header
from spool.segment import Header, header_block, name_of, tag_of

TEXT = (Path(spool.__file__).parent / "FORMAT.rst").read_text()
SECRET = bytes(range(16))
BATCHES = [[Put(7, b"due 0", b"env", b"Hello\r\n")], [Amend(7, b"due 9")], [Drop(7)]]


def _blocks() -> list[bytes]:
    """The listings' hexadecimal left columns: header, PUT, AMEND, DROP."""
    blocks = []
    for listing in TEXT.split("Worked example")[1].split("::\n\n")[1:]:
        lines = [line.strip() for line in listing.split("\n\n")[0].splitlines()]
        blocks.append(bytes.fromhex("".join(line.split("     ")[0] for line in lines)))
    return blocks


def test_the_worked_example_is_what_the_code_writes() -> None:
    tag = tag_of(SECRET, 1)
    frames = []
    for serial, batch in enumerate(BATCHES, 1):
        body = encode(batch)
        frames.append(header(tag, serial, len(body), crc32(body)) + body)
    assert _blocks() == [header_block(Header(1, 1, SECRET))[:40], *frames]


def test_the_worked_example_is_what_the_code_reads(tmp_path: Path) -> None:
    block, put, amend, drop = _blocks()
    start = block.ljust(512, b"\0") * 2
    for frames, items in (
        ([put], [(7, b"due 0")]),
        ([put, amend], [(7, b"due 9")]),
        ([put, amend, drop], []),
    ):
        (tmp_path / name_of(1)).write_bytes(start + b"".join(frames))
        opened = Spool(tmp_path)
        assert list(opened.items()) == items
        opened.close()


def test_the_offsets_of_the_example_are_right() -> None:
    _, put, amend, _ = _blocks()
    offsets = [int(found) for found in re.findall(r"^At (\d+)::", TEXT, re.MULTILINE)]
    assert offsets == [1024, 1024 + len(put), 1024 + len(put) + len(amend)]


@pytest.mark.parametrize("alike", range(1, 9))
def test_four_bytes_of_the_tag_behind_the_last_frame_are_a_torn_tail(
    tmp_path: Path, alike: int
) -> None:
    block, put, *_ = _blocks()
    whole = block.ljust(512, b"\0") * 2 + put
    tag = bytearray(put[:8])
    for at in range(8 - alike):
        tag[at] ^= 0xFF
    file = tmp_path / name_of(1)
    file.write_bytes(whole + tag + b"more")
    Spool(tmp_path).close()
    assert file.stat().st_size == len(whole) + (12 if alike < 4 else 0)
