"""The sink's dialogue without sockets: replies, behaviour, and content exact to the byte."""

import pytest

from gwrelay_bench.behaviour import Behaviour, Greylist
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
    assert sink.closing
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
