"""Dots and the final dot, however the content is cut (RFC 5321 4.5.2)."""

import itertools
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gwrelay.smtp.stuffing import on_the_wire


def wire_of(pieces: Iterable[bytes]) -> bytes:
    return b"".join(octets for octets, _ in on_the_wire(pieces))


def reference(content: bytes) -> bytes:
    """The rule as the RFC words it, line by line."""
    lines = content.split(b"\r\n")
    wire = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)
    if wire and not wire.endswith(b"\r\n"):
        wire += b"\r\n"
    return wire + b".\r\n"


def received(wire: bytes) -> bytes:
    """The content as the other end reads it."""
    content = b""
    for line in wire.split(b"\r\n"):
        if line == b".":
            return content
        content += line.removeprefix(b".") + b"\r\n"
    raise AssertionError("no final dot")


def cut(content: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(content) + 1) for at in cuts), len(content)]
    return [content[a:b] for a, b in itertools.pairwise(edges)]


# Canonical content: CRLF is the only line end, so CR and LF come together.
TOKENS = st.sampled_from(
    [b"\r\n", b".", b"..", b"a", b".a", b"\r\n.", b"\r\n.\r\n", b"\0", b"\xff"]
)
CONTENT = st.lists(TOKENS, max_size=30).map(b"".join)


@given(CONTENT, st.lists(st.integers(0, 200), max_size=12))
@example(b"\r\n.\r\n", [1])
@example(b"\r\n.\r\n", [2])
@example(b".\r\n.", [0, 0, 1, 1, 2, 2, 3, 3])
def test_any_cut_gives_what_the_reference_gives(content: bytes, cuts: list[int]) -> None:
    pieces = cut(content, cuts)
    assert b"".join(pieces) == content
    assert wire_of(pieces) == reference(content)


@given(CONTENT, st.lists(st.integers(0, 200), max_size=12))
def test_the_other_end_reads_the_content_back(content: bytes, cuts: list[int]) -> None:
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    wire = wire_of(cut(content, cuts))
    assert received(wire) == content
    assert wire.endswith(b".\r\n")
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b".\r\n"),
        (b"\r\n", b"\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"..\r\n", b"...\r\n.\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a.\r\n", b"a.\r\n.\r\n"),
        (b"a\r\n.", b"a\r\n..\r\n.\r\n"),
        (b"a\r\n.\r\n", b"a\r\n..\r\n.\r\n"),
        (b"a\r\n.\r\n.\r\nb\r\n", b"a\r\n..\r\n..\r\nb\r\n.\r\n"),
    ],
)
def test_every_cut_in_two_of_the_cases_by_hand(content: bytes, wire: bytes) -> None:
    for at in range(len(content) + 1):
        assert wire_of([content[:at], content[at:]]) == wire
    assert wire_of(content[n : n + 1] for n in range(len(content))) == wire


def test_no_pieces_are_an_empty_message() -> None:
    assert list(on_the_wire(())) == [(b".\r\n", True)]
    assert list(on_the_wire([b"", b""])) == [(b".\r\n", True)]


def test_the_final_dot_travels_with_the_last_block() -> None:
    assert list(on_the_wire([b"a\r\n", b"b\r\n", b""])) == [
        (b"a\r\n", False),
        (b"b\r\n.\r\n", True),
    ]


def test_a_piece_leaves_as_soon_as_another_is_there() -> None:
    """Large content never gathers in memory."""
    taken = []

    def pieces() -> Iterator[bytes]:
        for n in range(3):
            taken.append(n)
            yield b"%d\r\n" % n

    blocks = on_the_wire(pieces())
    assert next(blocks) == (b"0\r\n", False)
    assert taken == [0, 1]


def test_content_without_dots_is_passed_on_uncopied() -> None:
    first, second = b"x" * 1000 + b"\r\n", b"y\r\n"
    assert next(on_the_wire([first, second]))[0] is first
