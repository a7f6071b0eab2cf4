"""The corpus: canonical, sendable, and honest about what is not."""

import pytest

from gwrelay_bench.corpus import canonical, corpus, made_messages, objection

CANONICAL = [
    (b"", b""),
    (b"a", b"a\r\n"),
    (b"a\nb\n", b"a\r\nb\r\n"),
    (b"a\r\nb\n", b"a\r\nb\r\n"),
    (b"a\rb\n", b"a\rb\r\n"),
    (b"a\r\r\n", b"a\r\r\n"),
    (b"a\n\r", b"a\r\n\r\r\n"),
]


@pytest.mark.parametrize(("text", "expected"), CANONICAL)
def test_line_ends_become_crlf_and_nothing_else_changes(text: bytes, expected: bytes) -> None:
    assert canonical(text) == expected


OBJECTIONS = [
    (b"", None),
    (b"fine\r\n.\r\n", None),
    (b"\xff\r\n", None),
    (b"x" * 998 + b"\r\n", None),
    (b"x" * 999 + b"\r\n", "a line of more than 998 octets"),
    (b"a\rb\r\n", "a bare CR or LF"),
    (b"a\nb\r\n", "a bare CR or LF"),
    (b"a\r\r\n", "a bare CR or LF"),
    (b"a\0\r\n", "a NUL"),
]


@pytest.mark.parametrize(("content", "reason"), OBJECTIONS)
def test_what_smtp_forbids_is_named(content: bytes, reason: str | None) -> None:
    assert objection(content) == reason


def test_all_that_is_made_here_can_be_sent() -> None:
    reasons = {name: objection(content) for name, content in made_messages()}
    assert set(reasons.values()) == {None}, reasons


def test_the_mix_has_what_it_is_for() -> None:
    specimens, left_out = corpus()
    contents = [specimen.content for specimen in specimens]
    assert len({specimen.name for specimen in specimens}) == len(specimens)
    assert all(content.endswith(b"\r\n") for content in contents)
    assert any(not content.isascii() for content in contents)
    assert any(len(content) >= 2_000_000 for content in contents)
    assert any(b"\r\n.\r\n" in content for content in contents)
    assert all(reason for _, reason in left_out)


def test_the_mix_is_the_same_every_time() -> None:
    assert made_messages() == made_messages()
