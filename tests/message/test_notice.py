"""The message that tells the postmaster of a host that broke the protocol."""

import email
import email.policy

from gwrelay.message.notice import Breach, build

BREACH = Breach(
    "mx.example",
    "192.0.2.1",
    "rcpt",
    "399 what\nnow",
    ("> RCPT TO:<you@there.example>", "< 399-what", "< 399 now"),
)


def built(breach: Breach = BREACH) -> bytes:
    return build(breach, to="pm@here.example", hostname="gw.example", message_id=7, now=1000.0)


def test_it_has_host_stage_words_and_what_was_said() -> None:
    message = email.message_from_bytes(built(), policy=email.policy.default)
    assert message["To"] == "pm@here.example"
    assert message["Subject"] == "mx.example[192.0.2.1] breaks the protocol"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime.timestamp() == 1000
    assert message["Message-ID"].endswith("@gw.example>")
    text = message.get_content()
    for line in ("Host:  mx.example[192.0.2.1]", "Stage: rcpt", "Said:  399 what", "Said:  now"):
        assert line in text.splitlines()
    for line in BREACH.transcript:
        assert f"    {line}" in text.splitlines()


def test_hostile_words_stay_words() -> None:
    evil = "x\r\nBcc: all@there.example\r\n\r\n.\r\nMAIL FROM:<> \x1b[31m \xe4\0"
    content = built(Breach(evil, evil, "banner", evil, (evil, "y" * 100_000)))
    assert content.isascii()
    assert b"\x1b" not in content
    assert b"\0" not in content
    assert content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")
    assert email.message_from_bytes(content)["Bcc"] is None
    assert b"\r\n.\r\n" not in content
    assert max(map(len, content.split(b"\r\n"))) < 998


def test_it_is_short_whatever_was_said() -> None:
    many = "\n".join(["z" * 5000] * 5000)
    assert len(built(BREACH._replace(said=many, transcript=(many,) * 5000))) < 70_000


def test_the_latest_lines_are_those_that_are_kept() -> None:
    content = built(BREACH._replace(transcript=tuple(f"< line {n}." for n in range(500))))
    assert b"line 499." in content
    assert b"line 0." not in content
