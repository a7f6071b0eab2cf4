"""segment.py: headers, tags, and finding frames among damage."""

from collections.abc import Callable
from zlib import crc32

import pytest

from spool import Chunk, Drop
from spool.frame import encode, header
from spool.segment import (
    FIRST,
    Header,
    find_header,
    header_block,
    name_of,
    number_of,
    scan,
    tag_of,
)

SECRET = bytes(range(16))
TAG = tag_of(SECRET, 3)


def frame(serial: int, size: int = 0) -> bytes:
    body = encode([Chunk(serial, 0, b"x" * size)])
    return header(TAG, serial, len(body), crc32(body)) + body


def reader(raw: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, count: raw[offset : offset + count]


def serials(raw: bytes) -> list[int]:
    return [found.serial for _, _, found in scan(reader(raw), len(raw), TAG)]


BLOCK = header_block(Header(1, 3, SECRET))
FRAMES = [frame(n, size=n * 7) for n in range(1, 30)]
WHOLE = BLOCK + b"".join(FRAMES)


def test_a_name_gives_back_its_number() -> None:
    assert number_of(name_of(17)) == 17
    assert [number_of(name) for name in ("lock", "17.segment", "000000000017.segment.old")] == [
        None
    ] * 3


def test_tags_differ_by_number_and_by_secret() -> None:
    tags = {tag_of(secret, n) for secret in (SECRET, bytes(16)) for n in range(100)}
    assert len(tags) == 200


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw,
        lambda raw: bytes(512) + raw[512:],
        lambda raw: raw[:512] + bytes(512),
        lambda raw: raw[:40],
        lambda raw: b"+" + raw,
        lambda raw: raw[100:],
        lambda raw: raw[:10] + b"SPOOLSEG" + raw[18:],
    ],
)
def test_either_header_will_do_wherever_it_went(damage: Callable[[bytes], bytes]) -> None:
    assert find_header(damage(BLOCK)) == (1, 3, SECRET)


@pytest.mark.parametrize("raw", [b"", bytes(4096), BLOCK[:39], b"SPOOLSEG" * 500])
def test_no_header_is_found_where_none_verifies(raw: bytes) -> None:
    assert find_header(raw) is None


def test_scan_finds_every_frame_and_where_it_stands() -> None:
    at = FIRST
    for offset, length, found in scan(reader(WHOLE), len(WHOLE), TAG):
        assert offset == at
        assert WHOLE[offset : offset + length] == FRAMES[found.serial - 1]
        at += length
    assert at == len(WHOLE)


def test_scan_reads_frames_larger_than_its_window() -> None:
    large = [frame(1, 3_000_000), frame(2, 10), frame(3, 1_048_576), frame(4)]
    assert serials(BLOCK + b"".join(large)) == [1, 2, 3, 4]


@pytest.mark.parametrize("at", range(FIRST, len(WHOLE), 13))
def test_a_flipped_byte_costs_the_frame_it_is_in(at: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= 0xFF
    hit = next(f.serial for o, n, f in scan(reader(WHOLE), len(WHOLE), TAG) if o <= at < o + n)
    assert serials(bytes(damaged)) == [n for n in range(1, 30) if n != hit]


@pytest.mark.parametrize("at", range(0, len(WHOLE), 29))
def test_inserted_bytes_cost_at_most_the_frame_they_are_in(at: int) -> None:
    assert len(serials(WHOLE[:at] + b"inserted" + WHOLE[at:])) >= 28


@pytest.mark.parametrize("at", range(0, len(WHOLE), 29))
def test_deleted_bytes_cost_at_most_the_frames_they_touch(at: int) -> None:
    assert len(serials(WHOLE[:at] + WHOLE[at + 5 :])) >= 27


def test_frames_behind_a_megabyte_of_junk_are_found() -> None:
    junk = (TAG[:7] + b"?") * 200_000
    assert serials(BLOCK + FRAMES[0] + junk + b"".join(FRAMES[1:])) == list(range(1, 30))


def test_a_length_that_leads_past_the_end_does_not_hide_what_is_behind() -> None:
    grown = bytearray(FRAMES[0])
    grown[12:16] = (2**27).to_bytes(4, "little")
    assert serials(BLOCK + bytes(grown) + FRAMES[1]) == [2]


def test_a_frame_of_another_segment_inside_a_body_is_not_found() -> None:
    other = tag_of(SECRET, 4)
    body = encode([Drop(1)])
    foreign = header(other, 1, len(body), crc32(body)) + body
    assert serials(BLOCK + foreign + FRAMES[4]) == [5]


def test_an_empty_file_has_no_frames() -> None:
    assert [serials(raw) for raw in (b"", BLOCK[:5], BLOCK, BLOCK + bytes(5000))] == [[]] * 4
