"""Content as it goes over the wire: dots stuffed, closed by the final dot (RFC 5321 4.5.2).

Pure.  Content is canonical: CRLF line ends only, as the accepting session made sure.
"""

import re
from collections.abc import Iterable, Iterator

#: A line that begins with a dot, but for the first.  In half the time of bytes.find().
find_dot = re.compile(rb"\r\n\.").search


#: Content begins at the start of a line.
_AT_START = b"\r\n"


def on_the_wire(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """`pieces`, which may be cut anywhere, as blocks to send, and whether each is the last,
    which has the final dot.

    The dot travels with the last block: one packet fewer for a small message, and a send
    that fails is known not to have sent it.
    """
    waiting = b""
    before = _AT_START
    for piece in pieces:
        if not piece:
            continue
        if waiting:
            yield waiting, False
        waiting = _stuff(piece, before)
        before = piece[-2:] if len(piece) > 1 else before[-1:] + piece
    yield waiting + (b".\r\n" if before == b"\r\n" else b"\r\n.\r\n"), True


def all_on_the_wire(content: bytes) -> bytes:
    """`content`, which is all there is, stuffed and with the final dot."""
    ends_line = content.endswith(b"\r\n") or not content
    return _stuff(content, _AT_START) + (b".\r\n" if ends_line else b"\r\n.\r\n")


def _stuff(piece: bytes, before: bytes) -> bytes:
    """`before` is the two bytes that came ahead of `piece`."""
    # One search decides for nearly all mail that there is nothing to do.
    stuffed = piece.replace(b"\r\n.", b"\r\n..") if find_dot(piece) else piece
    if before == b"\r\n" and piece.startswith(b"."):
        return b"." + stuffed
    if before[-1:] == b"\r" and piece.startswith(b"\n."):
        return b"\n." + stuffed[1:]
    return stuffed
