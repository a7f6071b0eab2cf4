"""frame.py: one batch as bytes, and everything that is not one."""

import struct
from collections.abc import Sequence
from zlib import crc32

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spool import Amend, Chunk, CorruptFrame, Drop, Put
from spool.frame import AnyRecord, Seal, decode, encode, header

TAG = b"\x11\x08\xf7\x1f\x2f\x62\xe5\x2e"

BATCHES: list[list[AnyRecord]] = [
    [Put(7, b"due 0", b"env", b"Hello\r\n")],
    [Put(2**63, b"", b"", b"", 3)],
    [Amend(1, b"x" * 300)],
    [Drop(1), Put(2, b"s", b"h", b"b" * 70_000)],
    [Chunk(9, 65_535, bytes(1000))],
    [Seal(4, 17, 2**32, 1, 2**50)],
    [Drop(n) for n in range(1000)],
]


def frame_of(body: bytes, tag: bytes = TAG, serial: int = 1) -> bytes:
    return header(tag, serial, len(body), crc32(body)) + body


@pytest.mark.parametrize("batch", BATCHES)
def test_decode_gives_back_what_was_encoded(batch: Sequence[AnyRecord]) -> None:
    raw = frame_of(encode(batch), serial=5)
    assert decode(raw, 0, TAG) == (5, batch, len(raw))


@pytest.mark.parametrize("batch", BATCHES[:5])
def test_decode_wants_more_at_every_byte_before_the_last(batch: Sequence[AnyRecord]) -> None:
    raw = frame_of(encode(batch))
    assert all(decode(raw[:cut], 0, TAG) is None for cut in range(0, len(raw), 1 + len(raw) // 999))
    assert decode(raw[:-1], 0, TAG) is None


@pytest.mark.parametrize("batch", BATCHES)
def test_decode_leaves_trailing_bytes_alone(batch: Sequence[AnyRecord]) -> None:
    raw = frame_of(encode(batch))
    assert decode(b"before" + raw + raw[:30], 6, TAG) == (1, batch, 6 + len(raw))


def verifies(raw: bytes) -> bool:
    try:
        return decode(raw, 0, TAG) is not None
    except CorruptFrame:
        return False


def test_every_flipped_bit_is_noticed() -> None:
    raw = frame_of(encode(BATCHES[0]))
    assert verifies(raw)
    for bit in range(len(raw) * 8):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        # Trailing bytes, so that a grown length does not merely ask for more.
        assert not verifies(bytes(damaged) + bytes(70_000)), bit


def test_zeros_are_not_a_frame() -> None:
    with pytest.raises(CorruptFrame):
        decode(bytes(4096), 0, TAG)


def test_a_frame_of_another_life_does_not_verify() -> None:
    raw = frame_of(encode(BATCHES[0]))
    with pytest.raises(CorruptFrame):
        decode(raw, 0, bytes(reversed(TAG)))
    # Nor when only the tag is put right: it is part of the checksum.
    other = frame_of(encode(BATCHES[0]), tag=bytes(reversed(TAG)))
    with pytest.raises(CorruptFrame):
        decode(TAG + other[8:], 0, TAG)


def test_a_length_beyond_the_limit_is_damage_and_not_a_reason_to_wait() -> None:
    with pytest.raises(CorruptFrame, match="impossible length"):
        decode(TAG + struct.pack("<III", 1, 2**32 - 1, 0), 0, TAG)


JUNK = {
    "nothing": b"",
    "a number": b"\x01",
    "a map": msgpack.packb({1: 2}),
    "a record that is no list": msgpack.packb([1]),
    "an empty record": msgpack.packb([[]]),
    "an unknown kind": msgpack.packb([[9, 1]]),
    "a kind that cannot be looked up": msgpack.packb([[[1], 1]]),
    "a field missing": msgpack.packb([[3]]),
    "a field too many": msgpack.packb([[3, 1, 2]]),
    "text for bytes": msgpack.packb([[2, 1, ""]]),
    "truth for a number": msgpack.packb([[3, True]]),
    "a float key": msgpack.packb([[3, 1.0]]),
    "a chunk number that would need an array of gigabytes": msgpack.packb([[4, 1, 2**32, b""]]),
    "a negative chunk number": msgpack.packb([[4, 1, -1, b""]]),
    "nested 200,000 deep": b"\x91" * 200_000,
    "an array of 4 thousand million": b"\xdd\xff\xff\xff\xff",
    "bytes of 4 gigabytes": b"\x91\x93\x02\x01\xc6\xff\xff\xff\xff",
    "a timestamp": b"\x91" + msgpack.packb(msgpack.Timestamp(1)),
    "an extension": b"\x91\xd4\x05\x00",
    "bytes behind the batch": msgpack.packb([[3, 1]]) + b"\x00",
    "a byte that msgpack never uses": b"\xc1",
}


@pytest.mark.parametrize("name", JUNK)
def test_junk_with_a_good_checksum_is_damage(name: str) -> None:
    with pytest.raises(CorruptFrame):
        decode(frame_of(JUNK[name]), 0, TAG)


@given(st.binary(max_size=200))
def test_any_body_is_a_batch_or_damage(body: bytes) -> None:
    try:
        frame = decode(frame_of(body), 0, TAG)
    except CorruptFrame:
        return
    assert frame is not None
    assert encode(frame.batch) is not None


@pytest.mark.parametrize(
    "batch",
    [
        [Put(1, "text", b"", b"")],
        [Put("1", b"", b"", b"")],
        [Amend(1, None)],
        [Drop(1.0)],
        [Drop(True)],
        [Chunk(1, 0, memoryview(b"x"))],
    ],
)
def test_encode_refuses_what_decode_would_not_take_back(batch: Sequence[AnyRecord]) -> None:
    with pytest.raises(TypeError):
        encode(batch)


@pytest.mark.parametrize(
    "batch", [[Chunk(1, 65_536, b"")], [Chunk(1, -1, b"")], [Drop(1)] * 65_536]
)
def test_encode_refuses_more_than_the_reader_allows(batch: Sequence[AnyRecord]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        encode(batch)
