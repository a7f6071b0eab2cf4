"""Replies out of bytes: whole, byte by byte, with more behind; and hostile (faults 113-116)."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.message.reply import Reply
from gwrelay.smtp.replies import MAX_LINE_BYTES, MAX_LINES, ProtocolError, ReplyReader


def read(chunks: list[bytes], reply_max_bytes: int = 64 * 1024) -> tuple[list[Reply], int]:
    """The replies in `chunks`, and how many bytes were left over."""
    reader = ReplyReader(reply_max_bytes)
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        while (reply := reader.next()) is not None:
            found.append(reply)
    return found, len(reader)


def by_byte(octets: bytes) -> list[bytes]:
    return [octets[n : n + 1] for n in range(len(octets))]


GOOD = [
    (b"250 2.0.0 taken\r\n", Reply(250, "2.0.0", "taken")),
    (b"250 taken\r\n", Reply(250, "", "taken")),
    (b"250\r\n", Reply(250, "", "")),
    (b"250 \r\n", Reply(250, "", "")),
    (b"250 2.0.0\r\n", Reply(250, "2.0.0", "")),
    (b"354 go on\n", Reply(354, "", "go on")),
    (b"250\n", Reply(250, "", "")),
    (b"599 5.999.999 x\r\n", Reply(599, "5.999.999", "x")),
    (b"250-\r\n250\r\n", Reply(250, "", "\n")),
    (b"250-mx.example\r\n250-SIZE 5\r\n250 DSN\r\n", Reply(250, "", "mx.example\nSIZE 5\nDSN")),
    (b"250-mx.example\n250 DSN\n", Reply(250, "", "mx.example\nDSN")),
    (b"550-5.1.1 no\r\n550 5.1.1 who\r\n", Reply(550, "5.1.1", "no\nwho")),
    (b"550-5.1.1\r\n550 5.1.1 who\r\n", Reply(550, "5.1.1", "\nwho")),
    (b"550-5.1.1 no\r\n550 who\r\n", Reply(550, "5.1.1", "no\nwho")),
    (b"550-5.1.1 no\r\n550 5.1.10 who\r\n", Reply(550, "5.1.1", "no\n5.1.10 who")),
    (b"550 5.1.1x no\r\n", Reply(550, "", "5.1.1x no")),
    (b"550 5.1.1234 no\r\n", Reply(550, "", "5.1.1234 no")),
    (b"550 3.1.1 no\r\n", Reply(550, "", "3.1.1 no")),
    # RFC 2034 3: the class of the status is that of the code, or it is no status.
    (b"450 5.1.1 later\r\n", Reply(450, "", "5.1.1 later")),
    (b"550 2.1.5 no\r\n", Reply(550, "", "2.1.5 no")),
    ("250 größe\r\n".encode(), Reply(250, "", "größe")),
    (b"250 gr\xf6sse\r\n", Reply(250, "", "gr\ufffdsse")),
    (b"250 a\rb\x1b[2J\r\n", Reply(250, "", "a\rb\x1b[2J")),
    (b"250 " + b"x" * (MAX_LINE_BYTES - 6) + b"\r\n", Reply(250, "", "x" * (MAX_LINE_BYTES - 6))),
    (b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n", Reply(250, "", "\n".join("x" * MAX_LINES))),
]  # fmt: skip


@pytest.mark.parametrize(("octets", "reply"), GOOD)
def test_a_reply_is_read_whole_byte_by_byte_and_with_more_behind(
    octets: bytes, reply: Reply
) -> None:
    assert read([octets]) == ([reply], 0)
    assert read(by_byte(octets)) == ([reply], 0)
    assert read([octets + b"25"]) == ([reply], 2)
    assert read([octets + octets]) == ([reply, reply], 0)
    assert read([b"220 before\r\n" + octets]) == ([Reply(220, "", "before"), reply], 0)


@pytest.mark.parametrize(("octets", "reply"), GOOD)
def test_a_reply_is_not_one_before_its_last_byte(octets: bytes, reply: Reply) -> None:
    assert read([octets[:-1]]) == ([], len(octets) - 1)


@given(st.lists(st.integers(0, 60)))
def test_cuts_change_nothing(cuts: list[int]) -> None:
    octets = b"250-a\r\n250-b\r\n250 c\r\n550-5.1.1 x\r\n550 5.1.1 y\r\n354 z\r\n"
    edges = [0, *sorted(at % len(octets) for at in cuts), len(octets)]
    chunks = [octets[a:b] for a, b in itertools.pairwise(edges)]
    assert read(chunks) == read([octets])


BAD = {
    "no code at all": b"hello\r\n",
    "an empty line": b"\r\n",
    "a bare line feed": b"\n",
    "two digits": b"25\r\n",
    "two digits and a space": b"25 ok\r\n",
    "four digits": b"2500 ok\r\n",
    "an underscore, as int() takes it": b"2_5 ok\r\n",
    "a sign, as int() takes it": b"+25 ok\r\n",
    "a minus sign": b"-25 ok\r\n",
    "a leading space": b" 250 ok\r\n",
    "a leading space, as int() takes it": b" 25 ok\r\n",
    "arabic digits": "٢٥٠ ok\r\n".encode(),
    "superscript digits": "²50 ok\r\n".encode(),
    "code 000": b"000 ok\r\n",
    "code 100": b"100 ok\r\n",
    "code 199": b"199 ok\r\n",
    "code 600": b"600 ok\r\n",
    "code 999": b"999 ok\r\n",
    "a tab behind the code": b"250\tok\r\n",
    "a letter behind the code": b"250ok\r\n",
    "NUL before": b"\x00250 ok\r\n",
    "NUL for a space": b"250\x00ok\r\n",
    "NUL in the text": b"250 o\x00k\r\n",
    "NUL in a later line": b"250-ok\r\n250 o\x00k\r\n",
    "binary": b"\x80\xff\x16\x03\x01\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\n",
    "another protocol": b"HTTP/1.1 200 OK\r\n",
    "a code that changes": b"250-ok\r\n550 no\r\n",
    "a code that changes to yes": b"550-no\r\n250 ok\r\n",
    "a continuation that is none": b"250-ok\r\nok\r\n",
    "an empty line in the reply": b"250-ok\r\n\r\n250 ok\r\n",
    "too many lines": b"250-x\r\n" * MAX_LINES + b"250 x\r\n",
    "too long a line": b"250 " + b"x" * MAX_LINE_BYTES + b"\r\n",
    "too long a continuation": b"250-" + b"x" * MAX_LINE_BYTES + b"\r\n250 ok\r\n",
    "a line without end": b"250 " + b"x" * MAX_LINE_BYTES,
    "rubbish without end": b"\x00" * (MAX_LINE_BYTES + 1),
    "too many bytes": (b"250-" + b"x" * 1000 + b"\r\n") * 70,
}


@pytest.mark.parametrize("octets", BAD.values(), ids=BAD.keys())
def test_what_is_no_reply_is_a_protocol_error_however_it_comes(octets: bytes) -> None:
    with pytest.raises(ProtocolError):
        read([octets])
    with pytest.raises(ProtocolError):
        read(by_byte(octets))
    with pytest.raises(ProtocolError):
        read([octets + b"250 ok\r\n"])


def test_an_endless_reply_ends_at_the_given_bytes() -> None:
    reader = ReplyReader(1000)
    for _ in range(10):
        reader.feed(b"250-" + b"x" * 94 + b"\r\n")
        assert reader.next() is None
    reader.feed(b"250-")
    with pytest.raises(ProtocolError, match="1000 bytes"):
        reader.next()


def test_what_follows_a_reply_does_not_count_against_its_size() -> None:
    follow = b"250 " + b"y" * 80 + b"\r\n"
    replies, left = read([b"250-a\r\n250 b\r\n" + follow * 10], 200)
    assert len(replies) == 11
    assert left == 0


def test_a_reply_of_many_lines_in_single_bytes_costs_no_more_than_its_size() -> None:
    """Parsed from its start at each byte, this took half a minute (faults 69, 115)."""
    octets = (b"250-" + b"x" * 310 + b"\r\n") * (MAX_LINES - 1)
    started = time.process_time()
    assert read(by_byte(octets)) == ([], len(octets))
    assert time.process_time() - started < 5


def test_the_size_counts_what_was_received_and_not_given_out() -> None:
    reader = ReplyReader()
    reader.feed(b"250-a\r\n250")
    assert reader.next() is None
    assert len(reader) == 10
    reader.feed(b" b\r\n220")
    assert reader.next() == Reply(250, "", "a\nb")
    assert len(reader) == 3


@given(st.binary(max_size=80))
def test_no_bytes_do_anything_but_reply_wait_or_fail(octets: bytes) -> None:
    try:
        replies, _ = read([octets + b"\n"])
    except ProtocolError:
        return
    assert all(200 <= reply.code < 600 for reply in replies)
