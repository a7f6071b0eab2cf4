"""STARTTLS in a session (RFC 3207): when it may be said, and what is forgotten by it."""

import pytest

from gwrelay.message.reply import Reply
from support.dialogue import ENVELOPE, POLICY, TO_CONTENT, Client, codes, converse

EHLO = b"EHLO client.example\r\n"
STARTTLS = b"STARTTLS\r\n"
CONTENT = b"Subject: hi\r\n\r\nhello\r\n"

OFFERED = POLICY._replace(offers_tls=True)


def secured(*, before: bytes = EHLO + STARTTLS) -> Client:
    """A client whose handshake is done."""
    client = Client(OFFERED)
    client.say(before)
    client.session.secured()
    return client


REACHING = {
    "start": b"",
    "ready": EHLO,
    "after HELO": b"HELO client.example\r\n",
    "mail": EHLO + b"MAIL FROM:<a@b.example>\r\n",
    "rcpt": EHLO + ENVELOPE,
    "after a message": TO_CONTENT + b".\r\n",
    "after RSET": EHLO + ENVELOPE + b"RSET\r\n",
}
IN_THE_CLEAR = {
    "start": ("503 5.5.1", "503 5.5.1"),
    "ready": ("220 2.0.0", "501 5.5.4"),
    "after HELO": ("220 2.0.0", "501 5.5.4"),
    "mail": ("503 5.5.1", "503 5.5.1"),
    "rcpt": ("503 5.5.1", "503 5.5.1"),
    "after a message": ("220 2.0.0", "501 5.5.4"),
    "after RSET": ("220 2.0.0", "501 5.5.4"),
}


@pytest.mark.parametrize("state", REACHING)
def test_every_state_answers_starttls_without_and_with_an_argument(state: str) -> None:
    plain, argued = IN_THE_CLEAR[state]
    assert converse(REACHING[state] + STARTTLS, OFFERED).codes[-1] == plain
    assert converse(REACHING[state] + b"STARTTLS now\r\n", OFFERED).codes[-1] == argued


@pytest.mark.parametrize("state", REACHING)
def test_starttls_under_tls_is_out_of_order_in_every_state(state: str) -> None:
    for line in (STARTTLS, b"starttls now\r\n"):
        client = secured()
        client.say(REACHING[state])
        assert client.say(line) == ["503 5.5.1"]
        assert not client.session.awaits_tls


@pytest.mark.parametrize("state", REACHING)
def test_without_a_certificate_it_is_not_offered_in_any_state(state: str) -> None:
    assert converse(REACHING[state] + STARTTLS).codes[-1] == "502 5.5.1"


def test_what_went_astray_is_not_obeyed() -> None:
    client = Client(OFFERED)
    assert client.say(EHLO + b"DATA\r\n" + STARTTLS) == ["250", "503 5.5.1", "503 5.5.1"]
    assert not client.session.awaits_tls


def test_ehlo_offers_starttls_in_the_clear_alone() -> None:
    assert b"250 STARTTLS\r\n" in converse(EHLO, OFFERED).output
    assert b"STARTTLS" not in converse(EHLO).output
    client = secured()
    client.say(EHLO)
    assert client.output.count(b"STARTTLS") == 1


@pytest.mark.parametrize(
    "behind",
    [EHLO, b"RSET\r\n", ENVELOPE, b"MAIL FROM:<a@b.exa", b"\x16\x03\x01", b"x" * 100_000],
    ids=["EHLO", "RSET", "an envelope", "half a line", "a hello of TLS", "a flood"],
)
def test_nothing_that_came_behind_starttls_is_ever_obeyed(behind: bytes) -> None:
    for chunks in ([EHLO + STARTTLS + behind], [EHLO + STARTTLS, behind]):
        client = Client(OFFERED)
        assert client.say(*chunks) == ["250", "220 2.0.0"]
        assert client.session.awaits_tls
        client.session.secured()
        assert client.session.output() == b""
        assert client.say(b"NOOP\r\n") == ["250 2.0.0"]
        assert client.say(b"MAIL FROM:<a@b.example>\r\n") == ["503 5.5.1"]


def test_the_client_begins_anew_and_is_told_so() -> None:
    client = secured()
    assert client.session.helo == ""
    assert client.say(ENVELOPE) == ["503 5.5.1", "503 5.5.1"]
    assert client.say(EHLO, ENVELOPE, b"DATA\r\n") == ["250", "250 2.1.0", "250 2.1.5", "354"]
    assert client.say(CONTENT + b".\r\n") == ["250 2.0.0"]
    assert client.messages[0][1] == CONTENT


def test_errors_in_the_clear_are_not_forgiven_by_tls() -> None:
    client = Client(OFFERED._replace(max_errors=3))
    client.say(EHLO, b"FROBNICATE\r\n" * 3, STARTTLS)
    client.session.secured()
    assert client.say(b"FROBNICATE\r\n") == ["421 4.7.0"]


@pytest.mark.parametrize(
    ("hello", "parameters", "in_the_clear", "under_tls"),
    [
        ("HELO", "", "SMTP", "SMTP"),
        ("EHLO", "", "ESMTP", "ESMTPS"),
        ("EHLO", " SMTPUTF8", "UTF8SMTP", "UTF8SMTPS"),
    ],
)
def test_the_protocol_is_named_as_rfc_3848_and_6531_have_it(
    hello: str, parameters: str, in_the_clear: str, under_tls: str
) -> None:
    mail = f"{hello} client.example\r\nMAIL FROM:<a@b.example>{parameters}\r\n".encode()
    for client, expected in ((Client(OFFERED), in_the_clear), (secured(), under_tls)):
        client.say(mail)
        assert client.session.protocol == expected


def test_a_session_that_was_ended_in_the_handshake_stays_ended() -> None:
    client = Client(OFFERED)
    client.say(EHLO + STARTTLS)
    assert client.session.idle
    client.session.give_up(Reply(421, "4.3.2", "stopping"))
    client.session.secured()
    assert client.session.closing
    assert not client.session.awaits_tls
    assert codes(client.session.output()) == ["421 4.3.2"]
    assert client.say(EHLO) == []
