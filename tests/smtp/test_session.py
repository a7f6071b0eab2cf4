"""Which command does what when (RFC 5321 4.1), and how the session is held from outside."""

import pytest

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.reply import Reply
from gwrelay.smtp.session import Session, Submission
from support.dialogue import ENVELOPE, POLICY, QUEUED, TO_CONTENT, Client, codes, converse

EHLO = b"EHLO client.example\r\n"
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<c@d.example>\r\n"
CONTENT = b"Subject: hi\r\n\r\nhello\r\n"


def test_a_message_is_submitted_with_its_envelope_and_answered() -> None:
    heard = converse(TO_CONTENT + CONTENT + b".\r\nQUIT\r\n")

    assert heard.codes == ["250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0"]
    assert heard.messages == [(Envelope("a@b.example", (Recipient("c@d.example"),)), CONTENT)]
    assert heard.closing


def test_several_messages_in_one_session_keep_their_own_envelopes() -> None:
    second = b"MAIL FROM:<>\r\nRCPT TO:<x@y.example>\r\nRCPT TO:<z@y.example>\r\nDATA\r\n"
    heard = converse(TO_CONTENT + CONTENT + b".\r\n" + second + b".\r\n")

    assert [(e.reverse_path, [r.address for r in e.recipients]) for e, _ in heard.messages] == [
        ("a@b.example", ["c@d.example"]),
        ("", ["x@y.example", "z@y.example"]),
    ]
    assert [content for _, content in heard.messages] == [CONTENT, b""]


def test_the_same_recipient_twice_is_kept_twice() -> None:
    heard = converse(EHLO + MAIL + RCPT + RCPT + b"DATA\r\n.\r\n")
    assert [r.address for r in heard.messages[0][0].recipients] == ["c@d.example"] * 2


def test_ehlo_offers_exactly_the_extensions_that_are_built() -> None:
    heard = converse(EHLO, POLICY._replace(max_message_size=52428800))
    assert heard.output == (
        b"250-gw.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n"
        b"250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250 DSN\r\n"
    )


def test_helo_offers_nothing() -> None:
    assert converse(b"HELO client.example\r\n").output == b"250 gw.example\r\n"


def test_the_greeting_names_the_host_and_nothing_is_said_before_it() -> None:
    client = Client()
    assert client.session.output() == b""
    client.session.greet()
    assert client.session.output() == b"220 gw.example ESMTP\r\n"


def test_commands_before_the_greeting_are_answered_after_it() -> None:  # faults 49
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    session.greet()
    session.receive(EHLO)
    assert codes(session.output()) == ["220", "250"]


# The table: what each state answers to each command.
REACHING = {
    "start": b"",
    "ready": EHLO,
    "mail": EHLO + MAIL,
    "rcpt": EHLO + ENVELOPE,
    "after a message": TO_CONTENT + b".\r\n",
    "after a refused message": TO_CONTENT + b"\n\r\n.\r\n",
    "after RSET": EHLO + ENVELOPE + b"RSET\r\n",
    "after EHLO": EHLO + ENVELOPE + b"EHLO again.example\r\n",
}
READY_LIKE = {
    "EHLO x": "250",
    "HELO x": "250",
    "MAIL FROM:<a@b.c>": "250 2.1.0",
    "RCPT TO:<a@b.c>": "503 5.5.1",
    "DATA": "503 5.5.1",
    "RSET": "250 2.0.0",
    "NOOP": "250 2.0.0",
    "NOOP with words": "250 2.0.0",
    "VRFY a@b.c": "252 2.0.0",
    "HELP": "214 2.0.0",
    "HELP MAIL": "214 2.0.0",
    "QUIT": "221 2.0.0",
    "EXPN list": "502 5.5.1",
    "STARTTLS": "502 5.5.1",
    "AUTH PLAIN AGEAYg==": "502 5.5.1",
    "BDAT 10 LAST": "502 5.5.1",
    "ETRN x": "502 5.5.1",
    "XCLIENT ADDR=1.2.3.4": "502 5.5.1",
    "TURN": "502 5.5.1",
    "FROBNICATE": "500 5.5.1",
    "": "500 5.5.1",
    " NOOP": "500 5.5.1",
    "EHLO": "501 5.5.4",
    "HELO": "501 5.5.4",
    "EHLO two words": "501 5.5.4",
    "MAIL": "501 5.5.4",
    "MAIL FROM": "501 5.5.4",
    "MAIL TO:<a@b.c>": "501 5.5.4",
    "RCPT": "503 5.5.1",
    "VRFY": "501 5.5.4",
    "RSET now": "501 5.5.4",
    "QUIT now": "501 5.5.4",
}
EXPECTED = {
    "start": READY_LIKE | {"MAIL FROM:<a@b.c>": "503 5.5.1", "MAIL": "503 5.5.1"}
    | {"MAIL FROM": "503 5.5.1", "MAIL TO:<a@b.c>": "503 5.5.1"},
    "ready": READY_LIKE,
    "mail": READY_LIKE
    | {"RCPT TO:<a@b.c>": "250 2.1.5", "RCPT": "501 5.5.4", "DATA": "554 5.5.1"}
    | dict.fromkeys(["MAIL FROM:<a@b.c>", "MAIL", "MAIL FROM", "MAIL TO:<a@b.c>"], "503 5.5.1"),
    "rcpt": READY_LIKE
    | {"RCPT TO:<a@b.c>": "250 2.1.5", "RCPT": "501 5.5.4", "DATA": "354", "DATA now": "501 5.5.4"}
    | dict.fromkeys(["MAIL FROM:<a@b.c>", "MAIL", "MAIL FROM", "MAIL TO:<a@b.c>"], "503 5.5.1"),
    "after a message": READY_LIKE,
    "after a refused message": READY_LIKE,
    "after RSET": READY_LIKE,
    "after EHLO": READY_LIKE,
}  # fmt: skip


@pytest.mark.parametrize(
    ("state", "command", "expected"),
    [
        pytest.param(state, command, expected, id=f"{state}: {command or 'an empty line'}")
        for state, row in EXPECTED.items()
        for command, expected in row.items()
    ],
)
def test_every_state_answers_every_command(state: str, command: str, expected: str) -> None:
    heard = converse(REACHING[state] + command.encode() + b"\r\n")
    assert heard.codes[-1] == expected
    assert len(heard.codes) == len(converse(REACHING[state]).codes) + 1
    assert heard.closing == (command == "QUIT")


@pytest.mark.parametrize("command", ["mail from:<a@b.c>", "Mail From:<a@b.c>", "MAIL FROM:<a@b.c>"])
def test_verbs_and_keywords_are_taken_in_any_case(command: str) -> None:
    assert converse(EHLO.lower() + command.encode() + b"\r\n").codes == ["250", "250 2.1.0"]


@pytest.mark.parametrize("line", [b"DATA \r\n", b"DATA \t \r\n"])
def test_blanks_at_the_end_of_a_line_are_tolerated(line: bytes) -> None:
    assert converse(EHLO + ENVELOPE + line).codes[-1] == "354"


def test_a_refused_ehlo_leaves_the_transaction_open() -> None:
    heard = converse(EHLO + ENVELOPE + b"EHLO \x01\r\nDATA\r\n.\r\n")
    assert heard.codes[3:] == ["501 5.5.4", "354", "250 2.0.0"]


@pytest.mark.parametrize("name", [b"\x00", b"a\x7f", b"a\tb", b"\xc3\xbc.example", b"\xff"])
def test_a_helo_name_that_is_not_printable_ascii_is_refused(name: bytes) -> None:  # faults 12
    assert converse(b"EHLO " + name + b"\r\n").codes == ["501 5.5.4"]


@pytest.mark.parametrize("name", ["my_host", "[127.0.0.1]", "localhost", "a;b(c)"])
def test_a_helo_name_that_is_no_domain_is_taken_as_it_is(name: str) -> None:
    client = Client()
    assert client.say(f"EHLO {name}\r\n".encode()) == ["250"]
    assert client.session.helo == name


@pytest.mark.parametrize("clearing", [b"RSET\r\n", b"EHLO again\r\n", b"HELO again\r\n"])
def test_what_clears_a_transaction_forgets_its_recipients(clearing: bytes) -> None:  # faults 27
    heard = converse(
        EHLO + ENVELOPE + clearing + MAIL + b"RCPT TO:<new@d.example>\r\nDATA\r\n.\r\n"
    )
    assert [r.address for r in heard.messages[0][0].recipients] == ["new@d.example"]


def test_rset_before_ehlo_does_not_stand_in_for_it() -> None:
    assert converse(b"RSET\r\n" + MAIL).codes == ["250 2.0.0", "503 5.5.1"]


def test_what_follows_quit_is_not_read() -> None:
    assert converse(EHLO + b"QUIT\r\n" + ENVELOPE).codes == ["250", "221 2.0.0"]


# Replies to the client's mail.


@pytest.mark.parametrize(
    ("hello", "parameters", "expected"),
    [
        (b"HELO c\r\n", b"", "SMTP"),
        (b"EHLO c\r\n", b"", "ESMTP"),
        (b"EHLO c\r\n", b" SMTPUTF8", "UTF8SMTP"),
    ],
)
def test_the_protocol_is_named_as_the_received_field_wants_it(
    hello: bytes, parameters: bytes, expected: str
) -> None:
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    text = hello + b"MAIL FROM:<a@b.c>" + parameters + b"\r\n" + RCPT + b"DATA\r\n.\r\n"
    assert len(session.receive(text)) == 1
    assert session.protocol == expected

    session.answer(QUEUED)
    assert session.protocol == ("SMTP" if hello.startswith(b"HELO") else "ESMTP")


def test_nothing_behind_a_message_is_obeyed_before_its_answer() -> None:
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    events = session.receive(TO_CONTENT + b".\r\nNOOP\r\n" + ENVELOPE + b"DATA\r\n..\r\n.\r\n")
    assert [type(event) for event in events] == [Submission]
    assert codes(session.output())[-1] == "354"
    assert session.receive(b"QUIT\r\n") == []
    assert session.output() == b""

    (second,) = session.answer(Reply(451, "4.3.0", "no"))
    assert isinstance(second, Submission)
    assert second.content == b".\r\n"
    assert codes(session.output()) == ["451 4.3.0", "250 2.0.0", "250 2.1.0", "250 2.1.5", "354"]

    assert session.answer(QUEUED) == []
    assert codes(session.output()) == ["250 2.0.0", "221 2.0.0"]
    assert session.closing


def test_replies_to_pipelined_commands_leave_together() -> None:  # faults 50
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    session.receive(TO_CONTENT)
    assert codes(session.output()) == ["250", "250 2.1.0", "250 2.1.5", "354"]
    assert session.output() == b""


def test_an_answer_without_a_submission_says_nothing() -> None:
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    assert session.answer(QUEUED) == []
    assert session.output() == b""


def test_an_answer_of_421_closes_the_session() -> None:
    heard = converse(TO_CONTENT + b".\r\nNOOP\r\n", answer=Reply(421, "4.3.2", "going"))
    assert heard.codes[-1] == "421 4.3.2"
    assert heard.closing


# Who may relay, and whether there is room.


@pytest.mark.parametrize(
    "address",
    ["u@far.example", "u%evil@gw.example", '"u@evil"@gw.example', "postmaster", "Postmaster"],
)
def test_a_client_that_may_not_relay_is_refused_at_rcpt(address: str) -> None:  # faults 55, 56
    text = EHLO + b"MAIL FROM:<>\r\nRCPT TO:<" + address.encode() + b">\r\nDATA\r\n"
    heard = converse(text, may_relay=False)
    assert heard.codes[-2:] == ["550 5.7.1", "554 5.5.1"]


def test_intake_refuses_at_mail_and_is_asked_again_at_the_next() -> None:
    refusals = [Reply(452, "4.3.1", "no room"), None]
    session = Session(POLICY, may_relay=True, intake=lambda: refusals.pop(0))
    session.receive(EHLO + MAIL + RCPT + MAIL + RCPT)
    assert codes(session.output()) == ["250", "452 4.3.1", "503 5.5.1", "250 2.1.0", "250 2.1.5"]


def test_an_intake_that_says_421_ends_the_session() -> None:
    heard = converse(EHLO + MAIL + RCPT, intake=Reply(421, "4.3.2", "going"))
    assert heard.codes == ["250", "421 4.3.2"]
    assert heard.closing


def test_recipients_beyond_the_limit_are_told_to_come_again() -> None:  # faults 53
    policy = POLICY._replace(max_recipients=3)
    heard = converse(EHLO + MAIL + RCPT * 50 + b"DATA\r\n.\r\n", policy)
    assert heard.codes[2:-2] == ["250 2.1.5"] * 3 + ["452 4.5.3"] * 47
    assert len(heard.messages[0][0].recipients) == 3


def test_postmaster_without_domain_ours() -> None:
    heard = converse(EHLO + MAIL + b"RCPT TO:<Postmaster>\r\nDATA\r\n.\r\n")
    assert heard.messages[0][0].recipients[0].address == "Postmaster@gw.example"


# From outside.


def test_in_content_and_idle_follow_the_dialogue() -> None:
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    seen = []
    for text in [b"", EHLO, MAIL, RCPT, b"DATA\r\n", b"x\r\n", b".\r\n"]:
        session.receive(text)
        seen.append((session.idle, session.in_content))
    session.answer(QUEUED)
    seen.append((session.idle, session.in_content))

    idle, busy, in_content = (True, False), (False, False), (False, True)
    assert seen == [idle, idle, busy, busy, in_content, in_content, busy, idle]


@pytest.mark.parametrize("text", [b"", EHLO, EHLO + ENVELOPE, TO_CONTENT + b"x" * 1000])
def test_give_up_says_its_word_once_and_reads_no_more(text: bytes) -> None:  # faults 60
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    session.receive(text)
    session.output()

    session.give_up(Reply(421, "4.4.2", "timed out"))
    session.give_up(Reply(421, "4.3.2", "shutting down"))

    assert session.output() == b"421 4.4.2 timed out\r\n"
    assert session.closing
    assert session.receive(b"NOOP\r\n\r\n.\r\n") == []
    assert session.output() == b""


def test_give_up_while_a_message_waits_is_its_answer() -> None:
    session = Session(POLICY, may_relay=True, intake=lambda: None)
    session.receive(TO_CONTENT + b".\r\nNOOP\r\n")
    session.output()

    session.give_up(Reply(451, "4.3.0", "a bug"))
    assert session.answer(QUEUED) == []
    assert session.output() == b"451 4.3.0 a bug\r\n"
    assert session.closing


LONG = b"x" * 250
ENVELOPES_AT_ONCE = {
    "plain": MAIL + RCPT + b"DATA\r\n",
    "with a size": b"MAIL FROM:<a@b.example> SIZE=999\r\n" + RCPT + b"DATA\r\n",
    "too large": b"MAIL FROM:<a@b.example> SIZE=99999999999\r\n" + RCPT + b"DATA\r\n",
    "from nobody": b"MAIL FROM:<>\r\n" + RCPT + b"DATA\r\n",
    "to nobody": MAIL + b"RCPT TO:<>\r\nDATA\r\n",
    "a long sender": b"MAIL FROM:<" + LONG + b"@b.example>\r\n" + RCPT + b"DATA\r\n",
    "a long recipient": MAIL + b"RCPT TO:<" + LONG + b"@d.example>\r\nDATA\r\n",
    "two recipients": MAIL + RCPT + RCPT + b"DATA\r\n",
    "no recipient": MAIL + b"DATA\r\n",
    "a literal": MAIL + b"RCPT TO:<c@[192.0.2.1]>\r\nDATA\r\n",
    "a bad literal": MAIL + b"RCPT TO:<c@[x]>\r\nDATA\r\n",
    "an argument of DATA": MAIL + RCPT + b"DATA now\r\n",
    "in small letters": MAIL + b"rcpt to:<c@d.example>\r\nDATA\r\n",
}


@pytest.mark.parametrize("may_relay", [True, False])
@pytest.mark.parametrize("refusal", [None, Reply(452, "4.3.1", "full"), Reply(421, "", "go")])
@pytest.mark.parametrize("max_recipients", [1, 0])
@pytest.mark.parametrize("envelope", ENVELOPES_AT_ONCE.values(), ids=ENVELOPES_AT_ONCE)
def test_an_envelope_that_comes_at_once_is_taken_as_one_that_comes_by_and_by(
    envelope: bytes, max_recipients: int, refusal: Reply | None, may_relay: bool
) -> None:
    policy = POLICY._replace(max_recipients=max_recipients)
    heard = []
    for chunks in ([envelope], envelope.splitlines(keepends=True)):
        session = Session(policy, may_relay=may_relay, intake=lambda: refusal)
        session.receive(EHLO)
        session.output()
        for chunk in chunks:
            session.receive(chunk)
        said = session.output()
        events = session.receive(CONTENT + b".\r\n") if session.in_content else []
        heard.append((said, session.idle, session.in_content, session.closing, events))
    assert heard[0] == heard[1]
