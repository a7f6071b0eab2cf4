"""One segment of the log: its name, its header, its tag, and finding the frames in it.

    segment := header  zeros to 512  header  zeros to 1024  frame*
    header  := magic:8  version:u32  number:u64  secret:16  crc:u32          little-endian, 40 bytes

The header stands twice, in two disk sectors, and has this layout in every version to come.
"""

import re
import struct
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from spool.errors import CorruptFrame
from spool.frame import Frame, decode, size_at

MAGIC = b"SPOOLSEG"
VERSION = 1
SECRET_BYTES = 16

#: Where the header stands a second time: the next sector, so that one bad sector spares it.
_SPARE = 512
#: Where the first frame stands.
FIRST = 1024
#: How far find_header() looks for a header that inserted bytes have moved.
HEADER_SEARCH = 4096

_HEADER = struct.Struct("<8sIQ16s")
_NAME = re.compile(r"(\d{12})\.segment")
_SPARE_NAME = re.compile(r"spare-(\d{1,9})")
#: Bytes read at once when scanning.
_WINDOW = 256 * 1024


class Header(NamedTuple):
    version: int
    number: int
    secret: bytes


def name_of(number: int) -> str:
    return f"{number:012}.segment"


def number_of(name: str) -> int | None:
    """The segment's number, None if `name` is no segment's."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def spare_name_of(number: int) -> str:
    """A file that waits to become a segment; its number only tells it from the others."""
    return f"spare-{number}"


def spare_number_of(name: str) -> int | None:
    match = _SPARE_NAME.fullmatch(name)
    return int(match[1]) if match else None


def tag_of(secret: bytes, number: int) -> bytes:
    """What begins each frame of this segment, and by design nothing else in the world.

    The number changes when the file is used again, so frames of an earlier life do not match;
    the secret keeps anybody from mailing bytes that do.  Never the offset: inserted or deleted
    bytes may cost only what they touch.
    """
    return blake2b(secret + number.to_bytes(8, "little"), digest_size=8).digest()


def header_block(header: Header) -> bytes:
    """The FIRST bytes of a segment."""
    packed = _HEADER.pack(MAGIC, header.version, header.number, header.secret)
    copy = packed + crc32(packed).to_bytes(4, "little")
    return copy.ljust(_SPARE, b"\0") + copy.ljust(FIRST - _SPARE, b"\0")


def find_header(start: bytes) -> Header | None:
    """The first copy that verifies in `start`, the file's first HEADER_SEARCH bytes."""
    at = start.find(MAGIC)
    while at >= 0:
        copy = start[at : at + _HEADER.size + 4]
        if len(copy) == _HEADER.size + 4 and crc32(copy[:-4]).to_bytes(4, "little") == copy[-4:]:
            return Header(*_HEADER.unpack_from(copy)[1:])
        at = start.find(MAGIC, at + 1)
    return None


def scan(
    read: Callable[[int, int], bytes], size: int, tag: bytes, start: int = 0
) -> Iterator[tuple[int, int, Frame]]:
    """Each frame that verifies in a file of `size` bytes, as (offset, length in bytes, frame).

    From `start` on, when that is known to be just behind a frame, else from the beginning.

    `read(offset, count)` gives fewer than `count` bytes only at the end of the file.  Skips
    whatever is not a frame, to the next tag that verifies; the caller sees the gaps, and what
    is behind the last frame, from the offsets.  Frame.end is not a file offset here.
    Holds one window, or one frame where that is larger.
    """
    base = at = start or _start(read, tag)
    window = b""
    while at < size:
        try:
            frame = decode(window, at - base, tag)
        except CorruptFrame:
            at = _next_tag(window, base, at, tag)
            continue
        if frame is not None:
            length = frame.end - (at - base)
            yield at, length, frame
            at += length
            continue
        wanted = size_at(window, at - base)
        if at + wanted > size:
            # A length that leads beyond the file may be a damaged one, with good frames behind.
            at = _next_tag(window, base, at, tag)
            continue
        window, base = read(at, max(wanted, min(_WINDOW, size - at))), at
        if len(window) < wanted:
            return  # the file became shorter while being read


def _start(read: Callable[[int, int], bytes], tag: bytes) -> int:
    """FIRST, or the beginning of the file where no frame stands at FIRST.

    Deleted bytes move the first frame to the left.
    """
    return FIRST if read(FIRST, len(tag)) == tag else 0


def _next_tag(window: bytes, base: int, at: int, tag: bytes) -> int:
    """The file offset, past `at`, of the next tag in the window; else where to read on from."""
    hit = window.find(tag, at - base + 1)
    if hit >= 0:
        return base + hit
    return max(at + 1, base + len(window) - len(tag) + 1)
