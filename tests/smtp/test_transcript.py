"""What is kept of a session for the postmaster: the latest, without passwords and content."""

from gwrelay.message import outcome
from gwrelay.smtp.transcript import Transcript


def test_both_ends_are_told_apart_line_by_line() -> None:
    transcript = Transcript()
    transcript.sent(outcome.EHLO, b"ehlo gw.example\r\n")
    transcript.received(b"250-mx.example\r\n250 DSN\r\n")
    assert transcript.lines() == ("> ehlo gw.example", "< 250-mx.example", "< 250 DSN")


def test_neither_content_nor_passwords_are_kept() -> None:
    transcript = Transcript()
    transcript.sent(outcome.AUTH, b"AUTH PLAIN c2VjcmV0\r\n")
    for stage in (outcome.CONTENT, outcome.DOT):
        transcript.sent(stage, b"Subject: secret\r\n.\r\n")
    assert transcript.lines() == ("> [AUTH]", *["> [20 bytes, content among them]"] * 2)


def test_it_is_bounded_and_the_latest_stays() -> None:
    transcript = Transcript()
    for n in range(1000):
        transcript.received(b"%d " % n + b"x" * 100_000)
    assert sum(map(len, transcript.lines())) < 10_000
    assert transcript.lines()[-1].startswith("< 999 ")


def test_what_is_no_text_is_escaped() -> None:
    transcript = Transcript()
    transcript.received(b"2\xff0 \x80\r\n")
    assert transcript.lines() == ("< 2\\xff0 \\x80",)
