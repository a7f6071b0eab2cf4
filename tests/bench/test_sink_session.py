"""The sink's dialogue without sockets: replies, behaviour, and content exact to the byte."""

import pytest

from gwrelay_bench.behaviour import DROP, TAKEN, Behaviour, Fault, Greylist
from gwrelay_bench.sinksession import Arrival, SinkSession, unstuffed
from gwrelay_bench.submission import wire_content


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def session(
    arrivals: list[Arrival], rules: Behaviour | None = None, clock: Clock | None = None
) -> SinkSession:
    return SinkSession(
        "127.0.0.2",
        arrivals.append,
        clock or Clock(),
        rules or Behaviour(),
        Greylist(),
        keep_content=True,
    )


def codes(replies: bytes) -> list[int]:
    return [int(line[:3]) for line in replies.splitlines() if line[3:4] != b"-"]


CONTENTS = [
    b"",
    b"\r\n",
    b".\r\n",
    b"..\r\n",
    b".\r\n.\r\n..\r\n...\r\n",
    b"Subject: x\r\n\r\n.\r\n",
    b"a\r\n.b\r\n\r\n.\r\n",
    b"\x00\xff\n.\r.\n\r.\r\n",
    b"x" * 5000 + b"\r\n.\r\n",
]


@pytest.mark.parametrize("content", CONTENTS)
def test_stuffed_content_comes_back_exactly(content: bytes) -> None:
    wire = wire_content(content)
    assert wire.endswith(b".\r\n")
    assert unstuffed(wire[:-3]) == content


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_pipelined_transaction_arrives_however_it_is_cut(content: bytes, size: int) -> None:
    stream = b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
    stream += wire_content(content) + b"QUIT\r\n"
    arrivals: list[Arrival] = []
    sink = session(arrivals)
    replies = b"".join(sink.receive(stream[n : n + size]) for n in range(0, len(stream), size))
    assert codes(replies) == [250, 250, 250, 354, 250, 221]
    assert sink.closes
    assert [(a.reverse_path, a.recipients, a.content) for a in arrivals] == [
        ("a@b.example", ("c@d.example",), content)
    ]


def test_ehlo_offers_what_the_gateway_is_to_use() -> None:
    offered = session([]).receive(b"EHLO c\r\n").decode()
    for word in ("PIPELINING", "8BITMIME", "SIZE", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"):
        assert f"{word}\r\n" in offered


def test_without_pipelining_ehlo_offers_all_the_rest() -> None:
    offered = session([]).receive(b"EHLO c\r\n")
    fewer = session([], Behaviour(pipelining=False)).receive(b"EHLO c\r\n")
    assert fewer == offered.replace(b"250-PIPELINING\r\n", b"") != offered


ORDERS = [
    (b"RCPT TO:<a@b>\r\n", [503]),
    (b"DATA\r\n", [503]),
    (b"MAIL FROM:<>\r\nDATA\r\n", [250, 554]),
    (b"MAIL FROM:<>\r\nMAIL FROM:<>\r\n", [250, 503]),
    (b"MAIL FROM:<>\r\nRSET\r\nRCPT TO:<a@b>\r\n", [250, 250, 503]),
    (b"MAIL FROM:<>\r\nEHLO c\r\nRCPT TO:<a@b>\r\n", [250, 250, 503]),
    (b"MAIL FROM:a@b\r\n", [501]),
    (b"mail from: <a@b> SIZE=1\r\nrcpt to: <a@b> NOTIFY=NEVER\r\n", [250, 250]),
    (b'MAIL FROM:<"a>b"@c>\r\n', [250]),
    (b"NOOP\r\nVRFY x\r\nHELO c\r\nFOO\r\n", [250, 252, 250, 500]),
]


@pytest.mark.parametrize(("commands", "expected"), ORDERS)
def test_commands_out_of_order_are_told_so(commands: bytes, expected: list[int]) -> None:
    assert codes(session([]).receive(commands)) == expected


def test_a_refused_recipient_gets_its_reply_and_the_others_the_mail() -> None:
    rules = Behaviour(refuse={"gone@d.example": "550 5.1.1 gone", "shut.example": "554 5.7.1 no"})
    arrivals: list[Arrival] = []
    replies = session(arrivals, rules).receive(
        b"MAIL FROM:<>\r\nRCPT TO:<Gone@d.example>\r\nRCPT TO:<x@shut.example>\r\n"
        b"RCPT TO:<here@d.example>\r\nDATA\r\n.\r\n"
    )
    assert b"550 5.1.1 gone\r\n554 5.7.1 no\r\n250 " in replies
    assert arrivals[0].recipients == ("here@d.example",)


def test_greylisting_is_per_pair_and_ends() -> None:
    clock = Clock()
    sink = session([], Behaviour(greylist={"grey.example": 2.0}), clock)

    def attempt(path: str) -> list[int]:
        return codes(
            sink.receive(f"RSET\r\nMAIL FROM:<{path}>\r\nRCPT TO:<r@grey.example>\r\n".encode())
        )

    assert attempt("a@b") == [250, 250, 451]
    clock.now += 1.9
    assert attempt("a@b") == [250, 250, 451]
    clock.now += 0.1
    assert attempt("a@b") == [250, 250, 250]
    assert attempt("c@d") == [250, 250, 451]


def test_commands_that_come_together_share_the_longest_delay() -> None:
    sink = session([], Behaviour(delays={"MAIL": 0.1, "RCPT": 0.3, "DOT": 1.0, "CONNECT": 2.0}))
    assert sink.delay_s == 2.0
    sink.receive(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n")
    assert sink.delay_s == 0.3
    sink.receive(b"x\r\n.\r\n")
    assert sink.delay_s == 1.0
    sink.receive(b"NOOP\r\n")
    assert sink.delay_s == 0.0


def test_an_internationalised_address_is_recorded_as_it_was_meant() -> None:
    arrivals: list[Arrival] = []
    session(arrivals).receive(
        "MAIL FROM:<jörg@a> SMTPUTF8\r\nRCPT TO:<zoë@b>\r\nDATA\r\n.\r\n".encode()
    )
    assert (arrivals[0].reverse_path, arrivals[0].recipients) == ("jörg@a", ("zoë@b",))


ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"


def wayward(
    rules: Behaviour, chances: list[float] | None = None
) -> tuple[SinkSession, list[Arrival], list[str]]:
    """With these chances, one for each that is taken; then what arrived, and what went wrong."""
    arrivals: list[Arrival] = []
    faults: list[str] = []
    turns = iter(chances or [])
    sink = SinkSession(
        "", arrivals.append, Clock(), rules, Greylist(), chance=lambda: next(turns, 0.0),
        on_fault=faults.append,
    )  # fmt: skip
    return sink, arrivals, faults


@pytest.mark.parametrize(
    ("command", "replies"),
    [
        ("EHLO", [450, 250, 250, 354, 250]),
        ("MAIL", [250, 450, 503, 503]),
        ("RCPT", [250, 250, 450, 554]),
        ("DATA", [250, 250, 250, 450]),
        ("DOT", [250, 250, 250, 354, 450]),
    ],
)
def test_a_fault_is_answered_in_place_of_its_command(command: str, replies: list[int]) -> None:
    sink, arrivals, faults = wayward(Behaviour(faults=(Fault(command, "450 no"),)))
    said = sink.receive(b"EHLO c\r\n" + ENVELOPE)
    if codes(said)[-1] == 354:
        said += sink.receive(b"x\r\n.\r\n")
    assert codes(said) == replies
    assert faults == ["450"]
    assert len(arrivals) == (replies[-1] == 250)
    assert not sink.closes


def test_odds_say_how_often_something_goes_wrong() -> None:
    sink, _, faults = wayward(Behaviour(faults=(Fault("MAIL", "451 no", 0.3),)), [0.3, 0.29, 0.9])
    said = b"".join(sink.receive(b"MAIL FROM:<>\r\nRSET\r\n") for _ in range(3))
    assert codes(said) == [250, 250, 451, 250, 250, 250]
    assert faults == ["451"]


def test_a_fault_of_a_domain_is_one_of_its_recipients_alone() -> None:
    rules = Behaviour(faults=(Fault("RCPT", "550 no", 1.0, "d.example"),))
    sink, _, _ = wayward(rules)
    said = sink.receive(b"MAIL FROM:<>\r\nRCPT TO:<a@D.example>\r\nRCPT TO:<a@e.example>\r\n")
    assert codes(said) == [250, 550, 250]
    for domain, code in (("d.example", 554), ("e.example", 250)):
        rules = Behaviour(faults=(Fault("DOT", "554 no", 1.0, domain),))
        sink, _, _ = wayward(rules)
        sink.receive(ENVELOPE)
        assert codes(sink.receive(b".\r\n")) == [code]


@pytest.mark.parametrize(("reply", "arrived"), [(DROP, 0), (TAKEN, 1), ("421 4.3.2 bye", 0)])
def test_a_session_may_end_at_the_final_dot(reply: str, arrived: int) -> None:
    sink, arrivals, faults = wayward(Behaviour(faults=(Fault("DOT", reply),)))
    sink.receive(ENVELOPE)
    said = sink.receive(b".\r\nNOOP\r\n")
    assert said == (b"421 4.3.2 bye\r\n" if reply.startswith("421") else b"")
    assert sink.closes
    assert (len(arrivals), faults) == (arrived, [reply.split()[0]])


def test_a_client_may_be_turned_away_when_it_connects() -> None:
    sink, _, faults = wayward(Behaviour(faults=(Fault("CONNECT", "554 5.7.1 no"),)))
    assert (sink.greeting, sink.closes, faults) == (b"554 5.7.1 no\r\n", True, ["554"])


def test_replies_about_a_domain_may_be_late() -> None:
    rules = Behaviour({}, {}, {"RCPT": 0.1}, domain_delays={("RCPT", "d.example"): 2.0})
    for domain, delay_s in ((b"d.example", 2.0), (b"e.example", 0.1)):
        sink, _, _ = wayward(rules)
        sink.receive(b"MAIL FROM:<>\r\nRCPT TO:<a@%s>\r\n" % domain)
        assert sink.delay_s == delay_s


def test_starttls_is_offered_once_and_forgets_what_came_before() -> None:
    sink = SinkSession("", print, Clock(), Behaviour(), Greylist(), offers_tls=True)
    assert b"250-STARTTLS\r\n" in sink.receive(b"EHLO c\r\n")
    sink.receive(b"MAIL FROM:<>\r\n")
    assert codes(sink.receive(b"STARTTLS\r\nEHLO injected\r\n")) == [220]
    assert sink.encrypts
    assert b"STARTTLS" not in sink.receive(b"EHLO c\r\n")
    assert codes(sink.receive(b"RCPT TO:<c@d.example>\r\n")) == [503]
    assert codes(sink.receive(b"STARTTLS\r\n")) == [500]
