"""One envelope over one session: an outcome for each recipient, whatever the other end does."""

import select
import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from gwrelay.errors import ConnectionLost, StoreFailed
from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.smtp.connection import TIMEOUTS_S, Connection
from gwrelay.smtp.transaction import BLOCK_BYTES, Transaction, send
from support.peer import DROP, EXTENSIONS, POLITE, RESET, STALL, Pause, Peer, Slow
from support.sessions import record

MX = "mx.peer.example"
SENDER = "a@b.example"
CONTENT = b"Subject: hi\r\n\r\nhello\r\n"
ONE, TWO, THREE = "1@d.example", "2@d.example", "3@d.example"
#: About a megabyte; twenty are more than the kernel holds between ends that do not read.
LARGE_PIECE = (b"x" * 78 + b"\r\n") * 13_000

PATIENCE_S = 10.0
SHORT_S = 0.15
SOON_S = 3.0

DELIVERED, DEFERRED, FAILED = Kind.DELIVERED, Kind.DEFERRED, Kind.FAILED
LOCKSTEP = tuple(e for e in EXTENSIONS if e != "PIPELINING")
MODES = {"pipelined": EXTENSIONS, "lockstep": LOCKSTEP, "HELO": ()}


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def peer(mode: str) -> Iterator[Peer]:
    with Peer(extensions=MODES[mode]) as made:
        yield made


@pytest.fixture
def offering(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """A pipelining peer for what does not differ between the modes."""
    with Peer(extensions=getattr(request, "param", EXTENSIONS)) as made:
        yield made


def connect(peer: Peer, **short: float) -> Connection:
    made = Connection("gw.example", timeouts_s=dict.fromkeys(TIMEOUTS_S, PATIENCE_S) | short)
    assert made.open(*peer.address, MX).is_positive
    greeting = made.ehlo() if peer.extensions else made.helo()
    assert greeting.is_positive
    return made


def transaction(
    *recipients: str | Recipient,
    content: Iterable[bytes] = (CONTENT,),
    size_bytes: int = len(CONTENT),
    reverse_path: str = SENDER,
    body: str = "7BIT",
    smtputf8: bool = False,
    ret: str = "",
    envid: str = "",
) -> Transaction:
    everybody = tuple(r if isinstance(r, Recipient) else Recipient(r) for r in recipients or (ONE,))
    envelope = Envelope(reverse_path, everybody, body, smtputf8, ret, envid)
    return Transaction(envelope, everybody, size_bytes, content)


def kinds(told: list[Outcome]) -> list[Kind]:
    return [verdict.kind for verdict in told]


def said(told: list[Outcome]) -> list[str]:
    """Stage and reply, for those that the other end answered."""
    return [f"{v.stage} {v.reply}" if v.heard else f"{v.stage} lost" for v in told]


def in_doubt(told: list[Outcome]) -> list[bool]:
    return [verdict.in_doubt for verdict in told]


# -- what goes well -----------------------------------------------------------------------


def test_a_message_reaches_every_recipient(peer: Peer) -> None:
    connection = connect(peer)
    told = send(connection, transaction(ONE, TWO, THREE))

    assert kinds(told) == [DELIVERED] * 3
    assert said(told) == ["dot 250 2.0.0 taken"] * 3
    assert {(v.exchange, v.address) for v in told} == {(MX, "127.0.0.1")}
    assert in_doubt(told) == [False] * 3
    (arrival,) = peer.messages
    assert arrival.reverse_path == SENDER
    assert arrival.recipients == (ONE, TWO, THREE)
    assert arrival.content == CONTENT
    assert not connection.spoiled
    assert connection.transactions == 1


def test_several_messages_share_a_session_without_rset(peer: Peer) -> None:
    connection = connect(peer)
    for n in range(3):
        content = b"%d\r\n" % n
        assert kinds(send(connection, transaction(content=[content]))) == [DELIVERED]

    assert [m.content for m in peer.messages] == [b"0\r\n", b"1\r\n", b"2\r\n"]
    assert connection.transactions == 3
    assert peer.connections == 1
    assert "RSET" not in peer.verbs()


def test_only_the_recipients_of_this_delivery_are_named(peer: Peer) -> None:
    envelope = Envelope(SENDER, (Recipient(ONE), Recipient("x@other.example"), Recipient(TWO)))
    mine = [envelope.recipients[2], envelope.recipients[0]]
    told = send(connect(peer), Transaction(envelope, mine, len(CONTENT), [CONTENT]))
    assert kinds(told) == [DELIVERED] * 2
    assert peer.messages[0].recipients == (TWO, ONE)


def test_the_null_reverse_path_is_sent_as_one(peer: Peer) -> None:
    assert kinds(send(connect(peer), transaction(reverse_path=""))) == [DELIVERED]
    assert peer.commands[1].line.startswith(b"MAIL FROM:<>")


def test_the_same_recipient_twice_gets_two_outcomes(peer: Peer) -> None:
    assert kinds(send(connect(peer), transaction(ONE, ONE))) == [DELIVERED] * 2


@pytest.mark.parametrize("code", ["250", "251", "252"])
def test_any_2xx_accepts_a_recipient(peer: Peer, code: str) -> None:
    peer.once("RCPT", f"{code} 2.1.5 fine")
    assert kinds(send(connect(peer), transaction())) == [DELIVERED]


def test_pipelined_commands_do_not_wait_for_replies() -> None:
    with Peer() as peer:
        peer.always("RCPT", "550 5.1.1 nobody")
        send(connect(peer), transaction(ONE, TWO))
        assert peer.verbs() == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA"]


def test_an_envelope_is_one_write_and_a_small_content_another(
    offering: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = record(monkeypatch)
    assert kinds(send(connect(offering), transaction(ONE, TWO))) == [DELIVERED] * 2
    _ehlo, envelope, content = sockets[0].sent
    assert [line[:4] for line in envelope.splitlines()] == [b"MAIL", b"RCPT", b"RCPT", b"DATA"]
    assert content == CONTENT + b".\r\n"


def test_in_lockstep_nothing_is_sent_before_the_reply() -> None:
    with Peer(extensions=LOCKSTEP) as peer:
        peer.once("MAIL", STALL)
        with pytest.raises(ConnectionLost):
            send(connect(peer, mail=SHORT_S), transaction(ONE, TWO))
        assert peer.verbs() == ["EHLO", "MAIL"]
    with Peer(extensions=LOCKSTEP) as peer:
        peer.always("RCPT", "550 5.1.1 nobody")
        send(connect(peer), transaction(ONE, TWO))
        assert peer.verbs() == ["EHLO", "MAIL", "RCPT", "RCPT"]


def test_a_thousand_recipients_with_wordy_replies_go_in_one_transaction(peer: Peer) -> None:
    wordy = "250-2.1.5 " + "x" * 200 + "\n250 2.1.5 ok"
    peer.always("RCPT", wordy)
    told = send(connect(peer), transaction(*(f"{n}@d.example" for n in range(1000))))
    assert kinds(told) == [DELIVERED] * 1000


# -- content, byte for byte ---------------------------------------------------------------

CONTENTS = {
    "empty": [],
    "empty pieces": [b"", b""],
    "an empty line": [b"\r\n"],
    "a dot": [b".\r\n"],
    "dots": [b".\r\n..\r\n...\r\n.a\r\na.\r\n\r\n.\r\n"],
    "the final dot in pieces": [b"a\r\n", b".", b"\r", b"\n", b"b\r", b"\n.\r\n"],
    "single bytes": [bytes([b]) for b in b".\r\n..\r\nx\r\n.\r\n"],
    "octets": [bytes(b for b in range(256) if b not in b"\r\n") + b"\r\n"],
    "a long line": [b"x" * 5000 + b"\r\n"],
    "looks like SMTP": [b"QUIT\r\nRSET\r\nMAIL FROM:<x@y.example>\r\n"],
    "cut at a block": [b"x" * (BLOCK_BYTES - 1) + b"\r", b"\n.\r\n"],
    "dots at a block": [b"x" * (BLOCK_BYTES - 2) + b"\r\n.\r\n" + b"y" * BLOCK_BYTES + b"\r\n"],
    "several pieces": [LARGE_PIECE[:300_001], b"\r\n.\r\n", LARGE_PIECE],
}


@pytest.mark.parametrize("pieces", CONTENTS.values(), ids=CONTENTS.keys())
def test_content_arrives_byte_for_byte(peer: Peer, pieces: list[bytes]) -> None:
    connection = connect(peer)
    assert kinds(send(connection, transaction(content=pieces))) == [DELIVERED]
    assert kinds(send(connection, transaction(content=iter(pieces)))) == [DELIVERED]
    assert [m.content for m in peer.messages] == [b"".join(pieces)] * 2


@pytest.mark.parametrize("over", range(-5, 6))
def test_the_final_dot_may_fall_on_either_side_of_a_block(offering: Peer, over: int) -> None:
    content = b"x" * (BLOCK_BYTES - 5 + over) + b"\r\n"
    assert kinds(send(connect(offering), transaction(content=[content]))) == [DELIVERED]
    assert offering.messages[0].content == content


# -- addresses and parameters -------------------------------------------------------------

ADDRESSES = [
    "plain@d.example",
    "CaSe@D.Example.",
    '"a,b"@d.example',
    "a+b=c/d!e%f@d.example",
    '"a b"@d.example',
    '"a@evil.example"@d.example',
    '"a> SIZE=1 X="@d.example',
    '"."@d.example',
    '""@d.example',
    '"\\""@d.example',
    '"a(b)"@d.example',
    "$(id)@d.example",
    "a(b)@d.example",
    "a,b@d.example",
    "@r.example:u@d.example",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_sent_as_they_are(peer: Peer, address: str) -> None:
    send(connect(peer), transaction(address, reverse_path=address))
    mail, rcpt = [c.line for c in peer.commands if c.verb in ("MAIL", "RCPT")]
    path = f"MAIL FROM:<{address}>".encode()
    assert mail.startswith(path)
    assert mail.removeprefix(path) in (b"", b" SIZE=22")
    assert rcpt == f"RCPT TO:<{address}>".encode()


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\0"])
def test_no_address_ends_its_command(peer: Peer, end: str) -> None:
    """RFC 5321 4.1.2; what follows would be a command of its own."""
    evil = f"x@d.example>{end}RCPT TO:<evil@c.example"
    connection = connect(peer)
    told = send(connection, transaction(ONE, evil, TWO))
    assert kinds(told) == [DELIVERED, FAILED, DELIVERED]
    assert (told[1].reply.code, told[1].reply.status, told[1].heard) == (553, "5.1.3", False)
    told = send(connection, transaction(evil))
    assert kinds(told) == [FAILED]
    assert peer.arrived() == {ONE: 1, TWO: 1}
    assert peer.verbs()[1:] == ["MAIL", "RCPT", "RCPT", "DATA", "."]


@pytest.mark.parametrize(
    "sending",
    [
        transaction(ONE, TWO, reverse_path="a@b.example>\r\nRCPT TO:<evil@c.example"),
        transaction(ONE, TWO, envid="a\r\nRCPT TO:<evil@c.example>"),
    ],
    ids=["address", "parameter"],
)
def test_no_sender_ends_its_command(peer: Peer, sending: Transaction) -> None:
    told = send(connect(peer), sending)
    assert kinds(told) == [FAILED] * 2
    assert [(v.reply.code, v.reply.status) for v in told] == [(553, "5.1.7")] * 2
    assert peer.verbs()[1:] == []


def test_no_parameter_of_a_recipient_ends_its_command(peer: Peer) -> None:
    evil = Recipient(TWO, "NEVER", "rfc822;x\r\nRCPT TO:<evil@c.example>")
    assert kinds(send(connect(peer), transaction(ONE, evil))) == [DELIVERED, FAILED]
    assert peer.arrived() == {ONE: 1}


def commands_for(extensions: tuple[str, ...], sending: Transaction) -> list[bytes]:
    """The MAIL and RCPT lines that a peer with `extensions` gets."""
    with Peer(extensions=extensions) as peer:
        assert kinds(send(connect(peer), sending)) == [DELIVERED] * len(sending.recipients)
        return [c.line for c in peer.commands if c.verb in ("MAIL", "RCPT")]


WITH_DSN = transaction(
    Recipient(ONE, "SUCCESS,DELAY", "rfc822;x+2By@d.example"),
    Recipient(TWO, "NEVER"),
    Recipient(THREE),
    ret="HDRS",
    envid="QQ+2B1",
)


def test_dsn_parameters_are_passed_on_as_given_where_they_are_understood() -> None:
    assert commands_for(("DSN",), WITH_DSN) == [
        b"MAIL FROM:<a@b.example> RET=HDRS ENVID=QQ+2B1",
        b"RCPT TO:<1@d.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@d.example",
        b"RCPT TO:<2@d.example> NOTIFY=NEVER",
        b"RCPT TO:<3@d.example>",
    ]


@pytest.mark.parametrize(
    ("extensions", "relayed"),
    [(EXTENSIONS, [False] * 4), (LOCKSTEP[:-1], [True, False, False, False])],
)
def test_success_that_the_next_hop_will_not_report_is_noted(
    extensions: tuple[str, ...], relayed: list[bool]
) -> None:
    recipients = [
        Recipient(ONE, "SUCCESS,FAILURE"),
        Recipient(TWO, "FAILURE"),
        Recipient(THREE),
        Recipient("no@d.example", "SUCCESS"),
    ]
    with Peer(extensions=extensions) as peer:
        peer.recipient("no@d.example", "550 5.1.1 nobody")
        told = send(connect(peer), transaction(*recipients))
    assert kinds(told) == [DELIVERED] * 3 + [FAILED]
    assert [verdict.relayed for verdict in told] == relayed


def test_dsn_parameters_are_kept_from_those_who_do_not() -> None:
    assert commands_for(("8BITMIME",), WITH_DSN) == [
        b"MAIL FROM:<a@b.example>",
        b"RCPT TO:<1@d.example>",
        b"RCPT TO:<2@d.example>",
        b"RCPT TO:<3@d.example>",
    ]


@pytest.mark.parametrize(
    ("extensions", "sending", "mail"),
    [
        (("SIZE",), transaction(size_bytes=321), b"MAIL FROM:<a@b.example> SIZE=321"),
        (("SIZE 500",), transaction(size_bytes=321), b"MAIL FROM:<a@b.example> SIZE=321"),
        (("DSN",), transaction(size_bytes=321), b"MAIL FROM:<a@b.example>"),
        (("8BITMIME",), transaction(), b"MAIL FROM:<a@b.example>"),
        (("8BITMIME",), transaction(body="8BITMIME"), b"MAIL FROM:<a@b.example> BODY=8BITMIME"),
        (("SMTPUTF8",), transaction(), b"MAIL FROM:<a@b.example>"),
        (
            ("SMTPUTF8", "8BITMIME", "SIZE"),
            transaction("ü@d.example", reverse_path="ö@b.example", body="8BITMIME", smtputf8=True),
            f"MAIL FROM:<ö@b.example> SIZE={len(CONTENT)} BODY=8BITMIME SMTPUTF8".encode(),
        ),
    ],
)
def test_mail_carries_the_parameters_that_are_needed_and_understood(
    extensions: tuple[str, ...], sending: Transaction, mail: bytes
) -> None:
    assert commands_for(extensions, sending)[0] == mail


def test_utf8_addresses_are_sent_as_utf8() -> None:
    sending = transaction("jörg@dömäin.example", smtputf8=True)
    assert commands_for(("SMTPUTF8",), sending)[1] == "RCPT TO:<jörg@dömäin.example>".encode()


# -- 8-bit content for next hops that take none ---------------------------------------

EIGHT_BIT = b"Subject: hi\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
UNENCODABLE = b"Subject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nhello\r\n"


@pytest.mark.parametrize("extensions", [("PIPELINING", "SIZE"), ()])
def test_8_bit_content_is_converted_for_those_who_do_not_take_it(
    extensions: tuple[str, ...],
) -> None:
    sending = transaction(body="8BITMIME", content=[EIGHT_BIT[:14], EIGHT_BIT[14:]])
    with Peer(extensions=extensions) as peer:
        assert kinds(send(connect(peer), sending)) == [DELIVERED]
    [arrival] = peer.messages
    assert b"\r\n\r\nGr=C3=BC=C3=9Fe\r\n" in arrival.content
    assert "8BITMIME" not in arrival.mail_parameters
    if extensions:
        assert arrival.mail_parameters == f"SIZE={len(arrival.content)}"


def test_7_bit_content_goes_as_it_is_where_8bitmime_is_not_offered() -> None:
    with Peer(extensions=()) as peer:
        assert kinds(send(connect(peer), transaction())) == [DELIVERED]
    assert peer.messages[0].content == CONTENT


# -- what this next hop cannot take -------------------------------------------------------

IMPOSSIBLE = [
    (("SIZE 100",), transaction(ONE, TWO, size_bytes=101), "5.3.4"),
    (("SIZE",), transaction(ONE, TWO, body="8BITMIME", content=[UNENCODABLE]), "5.6.3"),
    ((), transaction(ONE, TWO, body="8BITMIME", content=[UNENCODABLE]), "5.6.3"),
    ((), transaction(ONE, TWO, body="8BITMIME", size_bytes=9 * 1024 * 1024), "5.6.3"),
    (("SIZE 60",), transaction(ONE, TWO, body="8BITMIME", content=[EIGHT_BIT]), "5.3.4"),
    (("8BITMIME",), transaction(ONE, TWO, smtputf8=True), "5.6.7"),
]


@pytest.mark.parametrize(("extensions", "sending", "status"), IMPOSSIBLE)
def test_what_it_cannot_take_fails_without_a_word(
    extensions: tuple[str, ...], sending: Transaction, status: str
) -> None:
    with Peer(extensions=extensions) as peer:
        connection = connect(peer)
        told = send(connection, sending)

        assert kinds(told) == [FAILED, FAILED]
        assert [v.reply.status for v in told] == [status] * 2
        assert not any(v.heard for v in told)
        assert {(v.exchange, v.address) for v in told} == {(MX, "127.0.0.1")}
        assert MX in told[0].reply.text
        assert connection.transactions == 0
        # The session is as good as before.
        assert kinds(send(connection, transaction())) == [DELIVERED]
        assert peer.verbs()[1:] == ["MAIL", "RCPT", "DATA", "."]


@pytest.mark.parametrize("announced", ["SIZE 22", "SIZE 0", "SIZE", "SIZE " + "9" * 5000])
def test_a_message_that_just_fits_is_sent(announced: str) -> None:
    assert len(CONTENT) == 22
    assert commands_for((announced,), transaction())


# -- replies at each stage ----------------------------------------------------------------


def test_each_recipient_has_the_outcome_of_its_own_reply(peer: Peer) -> None:
    peer.recipient(ONE, "550 5.1.1 nobody").recipient(THREE, "450 4.2.1 greylisted")
    connection = connect(peer)
    told = send(connection, transaction(ONE, TWO, THREE))

    assert kinds(told) == [FAILED, DELIVERED, DEFERRED]
    assert said(told) == [
        "rcpt 550 5.1.1 nobody",
        "dot 250 2.0.0 taken",
        "rcpt 450 4.2.1 greylisted",
    ]
    assert peer.messages[0].recipients == (TWO,)
    assert not connection.spoiled


@pytest.mark.parametrize(
    ("reply", "kind", "spoiled"),
    [
        ("550 5.7.1 no", FAILED, False),
        ("451 4.3.0 later", DEFERRED, False),
        ("501 5.5.4 syntax", DEFERRED, True),
        ("555 5.5.4 what", DEFERRED, True),
        ("501 5.1.7 no such sender", FAILED, False),
        ("421 4.3.2 bye", DEFERRED, True),
        ("354 eh", DEFERRED, True),
    ],
)
def test_a_refused_mail_is_the_outcome_of_every_recipient(
    peer: Peer, reply: str, kind: Kind, spoiled: bool
) -> None:
    peer.once("MAIL", reply)
    connection = connect(peer)
    told = send(connection, transaction(ONE, TWO))

    assert kinds(told) == [kind] * 2
    assert said(told) == [f"mail {reply}"] * 2
    assert connection.spoiled is spoiled
    assert peer.messages == []


def test_after_a_refused_mail_the_session_carries_the_next(peer: Peer) -> None:
    peer.once("MAIL", "550 5.7.1 not you")
    connection = connect(peer)
    send(connection, transaction(ONE, TWO))
    assert kinds(send(connection, transaction())) == [DELIVERED]
    assert "RSET" not in peer.verbs()


@pytest.mark.parametrize("end", [DROP, RESET, STALL])
def test_a_refused_mail_stays_refused_when_they_hang_up_on_the_rest(
    peer: Peer, end: object
) -> None:
    peer.once("MAIL", ("550 5.7.1 blocked", Pause(0.02), end))
    told = send(connect(peer, rcpt=SHORT_S), transaction(ONE, TWO))
    assert said(told) == ["mail 550 5.7.1 blocked"] * 2
    assert kinds(told) == [FAILED] * 2


@pytest.mark.parametrize(
    ("reply", "kind", "spoiled"),
    [
        ("550 5.1.1 nobody", FAILED, False),
        ("452 4.5.3 too many", DEFERRED, False),
        ("501 5.5.4 syntax", DEFERRED, True),
        ("501 5.1.3 bad address", FAILED, False),
    ],
)
def test_when_all_are_refused_no_content_is_sent(
    peer: Peer, reply: str, kind: Kind, spoiled: bool
) -> None:
    peer.once("RCPT", reply, reply)
    connection = connect(peer)
    told = send(connection, transaction(ONE, TWO))

    assert said(told) == [f"rcpt {reply}"] * 2
    assert kinds(told) == [kind] * 2
    assert connection.spoiled is spoiled
    assert connection.needs_rset
    assert peer.messages == []


@pytest.mark.parametrize("answer", [POLITE, "554 5.5.1 no valid recipients"])
def test_when_all_are_refused_and_they_still_want_data_a_lone_dot_ends_it(answer: object) -> None:
    with Peer() as peer:
        peer.once("RCPT", "550 5.1.1 nobody", "550 5.1.1 nobody")
        peer.once("DATA", "354 go on").once(".", answer)
        connection = connect(peer)
        told = send(connection, transaction(ONE, TWO, content=[b"secret\r\n"]))

        assert said(told) == ["rcpt 550 5.1.1 nobody"] * 2
        assert not connection.spoiled
        assert kinds(send(connection, transaction())) == [DELIVERED]
        nobodys = [((), b"")] if answer is POLITE else []
        assert [(m.recipients, m.content) for m in peer.messages] == [*nobodys, ((ONE,), CONTENT)]


@pytest.mark.parametrize("reply", ["503 5.5.1 RCPT first", "554 5.5.1 no valid recipients"])
def test_when_all_are_refused_a_refused_data_is_no_lost_step(reply: str) -> None:
    with Peer() as peer:
        peer.once("RCPT", "550 5.1.1 nobody").once("DATA", reply)
        connection = connect(peer)
        assert said(send(connection, transaction())) == ["rcpt 550 5.1.1 nobody"]
        assert not connection.spoiled


def test_a_lone_dot_that_breaks_changes_no_outcome() -> None:
    with Peer() as peer:
        peer.once("RCPT", "550 5.1.1 nobody").once("DATA", "354 go on").once(".", DROP)
        connection = connect(peer)
        told = send(connection, transaction(ONE))
        assert (kinds(told), in_doubt(told)) == ([FAILED], [False])
        assert connection.spoiled


@pytest.mark.parametrize(
    ("stage", "reply", "kind", "spoiled"),
    [
        ("DATA", "554 5.7.1 no", FAILED, False),
        ("DATA", "451 4.3.0 later", DEFERRED, False),
        ("DATA", "421 4.3.2 bye", DEFERRED, True),
        ("DATA", "503 5.5.1 order", DEFERRED, True),
        ("DATA", "250 2.0.0 taken", DEFERRED, True),  # faults 116
        ("DATA", "355 eh", DEFERRED, True),
        (".", "554 5.7.1 spam", FAILED, False),
        (".", "451 4.3.0 later", DEFERRED, False),
        (".", "452 4.3.1 full", DEFERRED, False),
        (".", "421 4.3.2 bye", DEFERRED, True),
        (".", "354 more", DEFERRED, True),
        (".", "500 5.5.2 what", DEFERRED, True),
    ],
)
def test_data_and_dot_speak_for_all_that_were_accepted(
    peer: Peer, stage: str, reply: str, kind: Kind, spoiled: bool
) -> None:
    peer.recipient(TWO, "550 5.1.1 nobody").once(stage, reply)
    connection = connect(peer)
    told = send(connection, transaction(ONE, TWO, THREE))

    name = "dot" if stage == "." else "data"
    assert said(told) == [f"{name} {reply}", "rcpt 550 5.1.1 nobody", f"{name} {reply}"]
    assert kinds(told) == [kind, FAILED, kind]
    assert in_doubt(told) == [False] * 3
    assert connection.spoiled is spoiled
    assert peer.messages == []


@pytest.mark.parametrize("goes_on", [DROP, POLITE], ids=["closes", "goes on talking"])
@pytest.mark.parametrize("code", ["421 4.3.2 bye", "354 eh"])
def test_a_421_or_nonsense_to_a_recipient_ends_it_and_keeps_what_was_refused(
    peer: Peer, code: str, goes_on: object
) -> None:
    """What is said after it, a 250 or a 354, counts for nothing (faults 116)."""
    peer.recipient(ONE, "550 5.1.1 nobody")
    peer.recipient(THREE, (code, DROP) if goes_on is DROP else code)
    connection = connect(peer)
    told = send(connection, transaction(ONE, TWO, THREE, "4@d.example"))

    assert kinds(told) == [FAILED, DEFERRED, DEFERRED, DEFERRED]
    assert in_doubt(told) == [False] * 4
    assert told[2].reply.code == int(code[:3])
    assert all(code in str(verdict.reply) for verdict in told[1:])
    assert connection.spoiled
    assert not connection.is_open
    peer.wait_for(lambda p: p.open == 0)
    assert peer.messages == []
    assert "." not in peer.verbs()


# -- what came too early ------------------------------------------------------------------


def test_a_reply_to_the_dot_that_came_before_it_is_none(peer: Peer) -> None:
    peer.once("DATA", "354 go on\n250 2.0.0 taken already")
    connection = connect(peer)
    told = send(connection, transaction())

    assert kinds(told) == [DEFERRED]
    assert in_doubt(told) == [False]
    assert told[0].stage == "content"
    assert connection.spoiled
    assert peer.messages == []


@pytest.mark.parametrize("early", ["250 2.0.0 taken already", "421 4.3.2 bye", DROP])
def test_what_comes_just_before_the_dot_is_not_the_reply_to_it(
    peer: Peer, early: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a segment of its own, behind the 354 and before a content of one block."""
    peer.once("DATA", ("354 go on", Pause(0.05), early))
    sockets = record(monkeypatch)
    connection = connect(peer)

    def wait_for_it(_accepted: int) -> None:
        assert select.select(sockets, [], [], PATIENCE_S)[0]

    told = send(connection, transaction(), wait_for_it)
    assert kinds(told) == [DEFERRED]
    assert in_doubt(told) == [False]
    assert told[0].stage == "content"
    assert not connection.is_open
    peer.wait_for(lambda p: p.open == 0)
    assert "." not in peer.verbs()


@pytest.mark.parametrize("early", ["250 2.0.0 taken already", "552 5.3.4 enough", "421 bye"])
def test_a_reply_in_the_middle_of_the_content_is_not_that_to_the_dot(
    peer: Peer, early: str
) -> None:
    peer.once("CONTENT", early)
    connection = connect(peer)
    told = send(connection, transaction(content=[LARGE_PIECE] * 20))

    assert kinds(told) == [DEFERRED]
    assert in_doubt(told) == [False]
    assert told[0].stage == "content"
    assert not connection.is_open
    peer.wait_for(lambda p: p.open == 0)
    assert peer.messages == []


def test_two_replies_to_one_command_are_a_lost_step() -> None:
    with Peer(extensions=LOCKSTEP) as peer:
        peer.recipient(ONE, "250 2.1.5 ok\n550 5.1.1 nobody".replace("\n", "\r\n"))
        connection = connect(peer)
        told = send(connection, transaction(ONE, TWO))
        assert kinds(told) == [DEFERRED] * 2
        assert connection.spoiled
        assert peer.messages == []


@pytest.mark.parametrize(
    ("stage", "answer"),
    [
        ("MAIL", b"250 2.1.0 ok\r\n250 2.1.0 ok\r\n"),
        ("MAIL", b"250 2.1.0 ok\r\n550 5.1.1 stray\r\n"),
        ("RCPT", b"250 2.1.5 ok\r\n250 2.1.5 ok\r\n"),
        ("DATA", b"554 5.7.1 stray\r\n354 go on\r\n"),
    ],
)
def test_where_there_are_more_replies_than_commands_no_refusal_is_believed(
    offering: Peer, stage: str, answer: bytes
) -> None:
    """The one about the second recipient is read as if it were about DATA."""
    offering.once(stage, answer).recipient(TWO, "550 5.1.1 nobody")
    connection = connect(offering)
    told = send(connection, transaction(ONE, TWO))
    assert kinds(told) == [DEFERRED] * 2
    assert in_doubt(told) == [False] * 2
    assert connection.spoiled
    assert not connection.is_open
    assert offering.messages == []


def test_a_goodbye_behind_a_refusal_does_not_make_it_doubtful(offering: Peer) -> None:
    """Of servers that count errors; else nobody would hear of these recipients for days."""
    offering.once("DATA", b"503 5.5.1 no recipients\r\n421 4.7.0 too many errors\r\n")
    offering.recipient(ONE, "550 5.1.1 nobody")
    told = send(connect(offering), transaction(ONE))
    assert kinds(told) == [FAILED]
    assert told[0].reply.status == "5.1.1"


# -- the connection breaks ----------------------------------------------------------------

ENDS = {"close": DROP, "reset": RESET, "stall": STALL, "garbage": b"_25 ok\r\n"}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_lost_before_the_reply_to_mail_nothing_is_known(peer: Peer, end: object) -> None:
    peer.once("MAIL", end)
    connection = connect(peer, mail=SHORT_S)
    with pytest.raises(ConnectionLost) as caught:
        send(connection, transaction(ONE, TWO))
    assert caught.value.stage == "mail"
    assert not connection.is_open


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize(
    ("verb", "stage", "doubtful"),
    [("RCPT", "rcpt", False), ("DATA", "data", False), (".", "dot", True)],
)
def test_lost_later_what_was_refused_stays_and_only_past_the_dot_is_in_doubt(
    peer: Peer, verb: str, stage: str, doubtful: bool, end: object
) -> None:
    peer.recipient(ONE, "550 5.1.1 nobody")
    if verb == "RCPT":
        peer.recipient(THREE, end)
    else:
        peer.once(verb, end)
    connection = connect(peer, **{stage: SHORT_S})
    started = time.monotonic()
    told = send(connection, transaction(ONE, TWO, THREE))

    assert time.monotonic() - started < SOON_S
    assert kinds(told) == [FAILED, DEFERRED, DEFERRED]
    assert in_doubt(told) == [False, doubtful, doubtful]
    assert [v.stage for v in told] == ["rcpt", stage, stage]
    assert not told[1].heard
    assert ("possible duplicate" in told[1].reply.text) is doubtful
    assert (told[1].exchange, told[1].address) == (MX, "127.0.0.1")
    assert connection.spoiled
    assert not connection.is_open
    assert peer.messages == []


@pytest.mark.parametrize("end", [DROP, RESET], ids=["close", "reset"])
def test_lost_in_the_content_nothing_is_in_doubt(peer: Peer, end: object) -> None:
    peer.recipient(ONE, "550 5.1.1 nobody").once("CONTENT", end)
    connection = connect(peer)
    told = send(connection, transaction(ONE, TWO, content=[LARGE_PIECE] * 20))

    assert kinds(told) == [FAILED, DEFERRED]
    assert in_doubt(told) == [False, False]
    assert told[1].stage == "content"
    assert connection.spoiled


def test_a_peer_that_stops_reading_ends_at_the_time_of_a_block(peer: Peer) -> None:
    peer.once("CONTENT", Pause(60))
    connection = connect(peer, content=SHORT_S)
    started = time.monotonic()
    told = send(connection, transaction(content=[LARGE_PIECE] * 40))

    assert time.monotonic() - started < SOON_S
    assert (told[0].stage, told[0].in_doubt) == ("content", False)
    assert "timed out" in told[0].reply.text


def test_content_may_take_longer_than_one_block_as_long_as_no_block_does(offering: Peer) -> None:
    offering.once("DATA", ("354 go on", Slow(0.02, 256 * 1024)))
    block_s = 0.5
    began: list[float] = []

    def note(_accepted: int) -> None:
        began.append(time.monotonic())

    started = time.monotonic()
    told = send(connect(offering, content=block_s), transaction(content=[LARGE_PIECE] * 20), note)
    assert kinds(told) == [DELIVERED]
    assert began[0] - started > block_s, "the last block did not come late enough to tell"


def test_content_that_is_taken_too_slowly_ends_though_each_block_is_in_time(
    offering: Peer,
) -> None:
    """The peer reads a little now and then, for ever."""
    offering.once("DATA", ("354 go on", Slow(0.02, 64 * 1024)))
    made = connect(offering, content=0.5)
    made.min_data_rate = 50_000_000.0
    told = send(made, transaction(content=[LARGE_PIECE] * 40, size_bytes=40 * len(LARGE_PIECE)))
    assert (told[0].stage, told[0].in_doubt) == ("content", False)
    assert kinds(told) == [DEFERRED]


def test_a_reply_to_the_dot_that_trickles_ends_in_doubt(peer: Peer) -> None:
    peer.once(".", tuple(step for drop in [b"250-", *[b"x"] * 200] for step in (drop, Pause(0.03))))
    told = send(connect(peer, dot=SHORT_S), transaction())
    assert (told[0].stage, told[0].in_doubt) == ("dot", True)


def test_accepted_and_not_heard_is_in_doubt_though_it_was_delivered(peer: Peer) -> None:
    peer.once(".", (POLITE, b"", DROP))
    told = send(connect(peer), transaction())
    assert kinds(told) == [DELIVERED]  # the reply came before the close
    peer.once(".", lambda _command: (b"250 2.0.0 ta", DROP))
    told = send(connect(peer), transaction())
    assert (kinds(told), in_doubt(told)) == ([DEFERRED], [True])


# -- the store breaks ---------------------------------------------------------------------


@pytest.mark.parametrize("pieces_before", [0, 1, 3])
def test_content_that_cannot_be_read_propagates_and_sends_no_final_dot(
    peer: Peer, pieces_before: int
) -> None:
    def failing() -> Iterator[bytes]:
        yield from [CONTENT] * pieces_before
        raise StoreFailed("segment 3 is damaged")

    connection = connect(peer)
    with pytest.raises(StoreFailed):
        send(connection, transaction(content=failing()))

    # Whatever came next would be content: the session is over.
    assert not connection.is_open
    connection.quit()
    peer.wait_for(lambda p: p.open == 0)
    assert peer.messages == []
    assert "." not in peer.verbs()


def test_content_is_taken_piece_by_piece_as_it_is_sent(offering: Peer) -> None:
    """Constant memory: a piece is not asked for before the one but one before it is out."""
    begun = threading.Event()
    offering.once("CONTENT", lambda _command: begun.set() or b"")

    def pieces() -> Iterator[bytes]:
        yield b"first\r\n"
        yield b"second\r\n"
        assert begun.wait(PATIENCE_S)
        yield b"third\r\n"

    assert kinds(send(connect(offering), transaction(content=pieces()))) == [DELIVERED]
    assert offering.messages[0].content == b"first\r\nsecond\r\nthird\r\n"


# -- RSET ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "reply", "needed"),
    [
        ("MAIL", "450 4.7.1 later", False),
        ("RCPT", "550 5.1.1 nobody", True),
        ("DATA", "451 4.3.0 later", True),
        (".", "451 4.3.0 later", False),
        (".", "250 2.0.0 taken", False),
    ],
)
def test_rset_comes_before_the_next_mail_only_when_a_transaction_was_left_open(
    peer: Peer, stage: str, reply: str, needed: bool
) -> None:
    peer.once(stage, reply)
    connection = connect(peer)
    send(connection, transaction())
    before = len(peer.commands)
    assert connection.needs_rset is needed

    assert kinds(send(connection, transaction())) == [DELIVERED]
    first = ["RSET"] if needed else []
    assert [c.verb for c in peer.commands[before:]] == [*first, "MAIL", "RCPT", "DATA", "."]
    assert not connection.needs_rset


@pytest.mark.parametrize("answer", ["421 4.7.0 too many errors", "500 5.5.1 what", DROP, STALL])
def test_a_failed_rset_is_a_lost_connection_before_anything_was_tried(
    peer: Peer, answer: object
) -> None:
    peer.once("RCPT", "550 5.1.1 nobody").once("RSET", answer)
    connection = connect(peer, rset=SHORT_S)
    send(connection, transaction())
    with pytest.raises(ConnectionLost) as caught:
        send(connection, transaction())
    assert caught.value.stage == "rset"
    assert connection.spoiled or not connection.is_open
    assert peer.verbs().count("MAIL") == 1


# -- reuse --------------------------------------------------------------------------------


def test_a_421_behind_the_reply_to_the_dot_delivers_and_ends_the_session(peer: Peer) -> None:
    peer.once(".", (POLITE, "421 4.4.2 enough for one session", DROP))
    connection = connect(peer)
    assert kinds(send(connection, transaction())) == [DELIVERED]
    assert not connection.is_quiet()
    with pytest.raises(ConnectionLost):
        send(connection, transaction())
    assert len(peer.messages) == 1


def test_a_session_closed_while_idle_is_lost_before_anything_was_tried(peer: Peer) -> None:
    connection = connect(peer)
    send(connection, transaction())
    peer.drop_sessions()
    peer.wait_for(lambda p: p.open == 0)
    with pytest.raises(ConnectionLost) as caught:
        send(connection, transaction())
    assert caught.value.stage == "mail"
