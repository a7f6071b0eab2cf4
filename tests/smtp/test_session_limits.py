"""Lines, errors, junk and other protocols: what a hostile client may cost us."""

import tracemalloc

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gwrelay.message.reply import Reply
from gwrelay.smtp.session import Piece, Session, Submission
from support.dialogue import ENVELOPE, POLICY, QUEUED, TO_CONTENT, Client, codes, converse

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<c@d.example>\r\n"


# Lines.


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"NOOP\nNOOP", id="LF"),
        pytest.param(b"NOOP\rNOOP", id="CR"),
        pytest.param(b"NOOP\r", id="CRCRLF"),
        pytest.param(b"\nNOOP", id="LF first"),
        pytest.param(b"MAIL FROM:<a@b.c>\nRCPT TO:<c@d.e>", id="MAIL LF RCPT"),
        pytest.param(b"RCPT TO:<a@b.c>\nDATA\n\n.\n", id="a whole dialogue in LF"),
        pytest.param(b"EHLO x\nMAIL FROM:<a@b.c>", id="EHLO LF MAIL"),
        pytest.param(b'RCPT TO:<"a\nb"@c.d>', id="LF in a quoted local part"),
        pytest.param(b"QUIT\n", id="QUIT LF CRLF"),
        pytest.param(b"FROBNICATE\n", id="unknown"),
    ],
)
def test_a_bare_cr_or_lf_makes_one_bad_command(line: bytes) -> None:  # faults 10
    assert converse(EHLO + line + b"\r\nNOOP\r\n").codes == ["250", "500 5.5.2", "250 2.0.0"]


def test_only_crlf_ends_a_line() -> None:
    assert converse(b"EHLO x\nEHLO y\nQUIT\n").codes == []


def test_crlf_inside_a_quoted_local_part_makes_two_bad_lines() -> None:  # faults 11
    heard = converse(EHLO + MAIL + b'RCPT TO:<"a\r\nb"@c.d>\r\nDATA\r\n')
    assert heard.codes[2:] == ["501 5.5.4", "500 5.5.1", "554 5.5.1"]


def line_of(start: bytes, size: int) -> bytes:
    return start + b"x" * (size - len(start) - 2) + b"\r\n"


@pytest.mark.parametrize(
    ("line", "expected", "closing"),
    [
        (line_of(b"NOOP ", 512), "250 2.0.0", False),
        (line_of(b"NOOP ", 513), "500 5.5.6", False),
        (line_of(b"EHLO ", 513), "500 5.5.6", False),
        (line_of(b"FROB ", 513), "500 5.5.6", False),
        (line_of(b"", 600), "500 5.5.6", False),
        (line_of(b"MAIL FROM:<a@b.c> ENVID=", 1024), "501 5.5.4", False),
        (line_of(b"MAIL FROM:<a@b.c> ENVID=", 1025), "500 5.5.6", False),
        (line_of(b"NOOP ", 2050), "500 5.5.6", False),
        (line_of(b"NOOP ", 2051), "500 5.5.6", True),
        (line_of(b"MAIL FROM:<", 10_000), "500 5.5.6", True),
        (b"x" * 2050, "500 5.5.6", True),
        (b"x" * 2047, None, False),
    ],
)
def test_a_line_beyond_its_limit_is_refused_and_an_endless_one_closes(  # faults 44, 45
    line: bytes, expected: str | None, closing: bool
) -> None:
    heard = converse(EHLO + line)
    assert heard.codes[1:] == ([expected] if expected else [])
    assert heard.closing is closing


def test_the_longest_lawful_rcpt_is_taken() -> None:
    address = b"l" * 64 + b"@" + b".".join([b"d" * 63, b"e" * 63, b"f" * 61])
    assert len(address) == 254
    text = b"RCPT TO:<" + address + b"> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;" + b"x" * 493
    heard = converse(EHLO + MAIL + text + b"\r\nDATA\r\n.\r\n")
    assert heard.messages[0][0].recipients[0].address == address.decode()


def test_an_endless_line_costs_no_memory() -> None:  # faults 45
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    tracemalloc.start()
    for _ in range(1000):
        session.receive(b"x" * 65_536)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000
    assert session.closing


# Other protocols.


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        b"CONNECT mx:25 HTTP/1.1\r\n",
        b"HEAD / HTTP/1.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"get / http/1.1\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 25\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\n\x01\r\n",
        b"\x00",
        b"\xff\xfb\x1f",
        b"\x80\x01\r\n",
    ],
)
@pytest.mark.parametrize("before", [b"", EHLO, EHLO + ENVELOPE])
def test_another_protocol_ends_the_session_at_once(text: bytes, before: bytes) -> None:
    smtp_inside = EHLO + ENVELOPE + b"DATA\r\n.\r\n"
    heard = converse(before + text + smtp_inside)
    assert heard.codes[len(converse(before).codes) :] == ["554 5.5.1"]  # faults 47
    assert heard.closing
    assert heard.messages == []


def test_a_binary_proxy_header_ends_the_session() -> None:  # faults 47
    heard = converse(b"\r\n\r\n\x00\r\nQUIT\n" + b"\x21\x11\x00\x0c" + bytes(12) + EHLO)
    assert heard.codes == ["500 5.5.1", "500 5.5.1", "554 5.5.1"]


# Errors and junk.


@pytest.mark.parametrize(
    "bad",
    [
        b"FROB\r\n",
        b"\r\n",
        b"AUTH x\r\n",
        b"a\nb\r\n",
        b"MAIL FROM:<\r\n",
        b"DATA\r\n",
        b"RCPT\r\n",
    ],
)
def test_the_twenty_first_error_is_the_last(bad: bytes) -> None:  # faults 48
    client = Client()
    client.say(EHLO)
    found = [code for _ in range(30) for code in client.say(bad)]
    assert len(found) == 21
    assert all(code.startswith("5") for code in found[:20])
    assert found[20] == "421 4.7.0"
    assert client.session.closing


def test_a_thousand_bad_commands_in_one_segment_get_no_thousand_replies() -> None:
    assert len(converse(EHLO + b"FROB\r\n" * 1000 + EHLO).codes) == 22


def test_refused_content_counts_as_an_error() -> None:
    heard = converse(EHLO + (ENVELOPE + b"DATA\r\n\n\r\n.\r\n") * 30)
    assert heard.codes.count("550 5.6.0") == 20
    assert heard.codes[-1] == "421 4.7.0"


def test_temporary_refusals_are_no_errors() -> None:
    heard = converse(EHLO + MAIL + RCPT * 200, POLICY._replace(max_recipients=1))
    assert not heard.closing


@pytest.mark.parametrize(
    "junk", [b"NOOP\r\n", b"RSET\r\n", b"VRFY x\r\n", b"HELP\r\n", b"EHLO x\r\n"]
)
def test_commands_without_mail_come_to_an_end(junk: bytes) -> None:  # faults 70
    heard = converse(junk * 5000)
    assert len(heard.codes) == 101
    assert heard.codes[-1] == "421 4.7.0"
    assert heard.closing


def test_mail_that_intake_keeps_refusing_comes_to_an_end() -> None:
    heard = converse(EHLO + MAIL * 500, intake=Reply(452, "4.3.1", "no room"))
    assert heard.codes[1:] == ["452 4.3.1"] * 99 + ["421 4.7.0"]


def test_an_accepted_message_clears_the_record() -> None:
    message = ENVELOPE + b"DATA\r\n.\r\n"
    heard = converse(EHLO + (message + b"FROB\r\n" * 15 + b"NOOP\r\n" * 60) * 5)
    assert len(heard.messages) == 5
    assert not heard.closing


def test_a_refused_message_does_not() -> None:
    message = ENVELOPE + b"DATA\r\n.\r\n"
    no = Reply(554, "5.6.0", "no")
    heard = converse(EHLO + (message + b"FROB\r\n" * 15) * 5, answer=no)
    assert heard.closing
    assert len(heard.messages) == 2


# Content that comes although nobody asked for it: faults 9 and 51.

BODY = b"Subject: x\r\n\r\nRSET\r\nMAIL FROM:<evil@x.y>\r\nRCPT TO:<v@d.e>\r\nDATA\r\nevil\r\n.\r\n"


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (EHLO + MAIL + b"RCPT TO:<no>\r\nDATA\r\n", ["250", "250 2.1.0", "501 5.1.3", "554 5.5.1"]),
        (EHLO + b"MAIL FROM:<no>\r\n" + RCPT + b"DATA\r\n",
         ["250", "501 5.1.7", "503 5.5.1", "503 5.5.1"]),
        (b"DATA\r\n", ["503 5.5.1"]),
        (EHLO + ENVELOPE + b"DATA now\r\n", ["250", "250 2.1.0", "250 2.1.5", "501 5.5.4"]),
        (EHLO + ENVELOPE + b"BDAT 99 LAST\r\n", ["250", "250 2.1.0", "250 2.1.5", "502 5.5.1"]),
    ],
)  # fmt: skip
def test_content_pipelined_behind_a_refusal_is_not_obeyed(
    refused: bytes, expected: list[str]
) -> None:
    client = Client()
    found = client.say(refused + BODY + EHLO, ENVELOPE + b"DATA\r\n.\r\n", b"QUIT\r\n")
    assert found[: len(expected)] == expected
    assert all(code in ("500 5.5.1", "503 5.5.1") for code in found[len(expected) : -1])
    assert found[-1] == "221 2.0.0"
    assert client.messages == []


def test_a_long_body_behind_a_refusal_ends_by_the_error_limit() -> None:
    client = Client()
    found = client.say(EHLO + MAIL + b"DATA\r\n" + b"a line\r\n" * 1000)
    assert found[2] == "554 5.5.1"
    assert found[3:] == ["500 5.5.1"] * 19 + ["421 4.7.0"]


def test_a_client_that_waits_for_the_refusal_goes_on_as_usual() -> None:
    client = Client()
    client.say(EHLO + MAIL + b"DATA\r\n", RCPT + b"DATA\r\n", b".\r\n")
    assert len(client.messages) == 1


# Anything at all.

WORDS = st.one_of(
    st.sampled_from(
        [
            *(EHLO, MAIL, RCPT, ENVELOPE, TO_CONTENT, b"DATA\r\n", b"RSET\r\n", b"QUIT\r\n"),
            *(b"BDAT 1\r\n", b"GET / HTTP/1.0\r\n", b"GET ", b"Received: x\r\n"),
            *(b".\r\n", b"..\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b".", b"\0"),
            *(b"x" * 700, b"y" * 3000, b"MAIL FROM:<a@b.c> SIZE=", b"RCPT TO:<"),
            *(b'"', b">", b"\xc3\xbc", b" SMTPUTF8"),
        ]
    ),
    st.binary(max_size=20),
)
NOISE = st.lists(WORDS, max_size=40).map(b"".join)


@given(NOISE, st.integers(1, 50))
def test_no_bytes_make_the_session_raise_or_talk_without_end(noise: bytes, step: int) -> None:
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    said = b""
    for at in range(0, len(noise), step):
        events = session.receive(noise[at : at + step])
        while events:
            assert sum(isinstance(event, Submission) for event in events) <= 1
            for event in events:
                content = event.content if isinstance(event, Piece | Submission) else b""
                assert b"\n" not in content.replace(b"\r\n", b"")
                assert b"\r" not in content.replace(b"\r\n", b"")
            events = session.answer(QUEUED)
        said += session.output()
    replies = codes(said)
    # One reply a line at most, one more at a final dot, and the last word.
    assert len(replies) <= noise.count(b"\r\n") + 1


@given(NOISE, st.integers(1, 50))
def test_how_the_bytes_are_cut_changes_nothing(noise: bytes, step: int) -> None:
    whole, in_steps = Client(), Client()
    whole.say(noise)
    # Where a client sends on behind a refused DATA, what was already there matters.
    assume(b"only QUIT now" not in whole.output)
    in_steps.say(*(noise[at : at + step] for at in range(0, len(noise), step)))
    assume(b"only QUIT now" not in in_steps.output)
    assert in_steps.output == whole.output
    assert in_steps.messages == whole.messages
