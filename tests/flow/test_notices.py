"""--notify-postmaster: who breaks the protocol is told of, seldom, and never in a circle."""

import json
from collections.abc import Iterator

import pytest

from support.clients import submit
from support.gateway import Gateway, StartGateway
from support.peer import DROP, Answer, Arrival, Peer

POSTMASTER = "pm@here.example"
SENDER, RECIPIENT = "me@here.example", "you@there.example"


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer]]:
    """The host that breaks the protocol is asked first; the other one is polite."""
    with Peer(host="127.0.0.2") as rude, Peer() as polite:
        yield rude, polite


def start(
    start_gateway: StartGateway, rude: Peer, polite: Peer, *more: str, to: str = POSTMASTER
) -> Gateway:
    hops = ["--smarthost", f"127.0.0.2:{rude.address[1]}", "--smarthost", polite.spec]
    return start_gateway(*hops, "--notify-postmaster", to, *more)


def notices(*peers: Peer) -> list[Arrival]:
    messages = [message for peer in peers for message in peer.messages]
    return [message for message in messages if b" breaks the protocol\r\n" in message.content]


def test_a_breach_at_each_stage_is_told_with_host_words_and_transcript(
    start_gateway: StartGateway, peers: tuple[Peer, Peer], breach: tuple[str, Answer, str, str]
) -> None:
    verb, answer, stage, said = breach
    rude, polite = peers
    rude.once(verb, answer)
    gateway = start(start_gateway, rude, polite)
    submit(gateway.port, SENDER, [RECIPIENT])
    gateway.wait_until(lambda: notices(rude, polite), "a notice")
    [arrival] = notices(rude, polite)
    assert (arrival.reverse_path, arrival.recipients) == ("", (POSTMASTER,))
    notice = arrival.content
    assert b"Subject: 127.0.0.2[127.0.0.2] breaks the protocol\r\n" in notice
    assert f"\r\nStage: {stage}\r\n".encode() in notice
    [told] = [line for line in notice.split(b"\r\n") if line.startswith(b"Said:  ")]
    assert said.encode() in told
    assert (b"\r\n    > ehlo gw.example" in notice) == (stage != "banner")
    assert b"\r\n    < " in notice
    [event] = gateway.wait_for("accepted", client="")
    assert event["recipients"] == [POSTMASTER]


BREACHES = {
    "a banner that is none": ("CONNECT", "welcome", "banner", "not an SMTP reply"),
    "a binary banner": ("CONNECT", b"\x16\x03\x01\x00\r\n", "banner", "not an SMTP reply"),
    "a go-ahead for MAIL": ("MAIL", "354 go", "mail", "354 go"),
    "a command not known at RCPT": ("RCPT", "500 what?", "rcpt", "500 what?"),
    "a yes to DATA": ("DATA", "250 yes", "data", "250 yes"),
    "a code out of range at the dot": (".", "999 yes", "dot", "reply code out of range"),
}


@pytest.fixture(params=BREACHES.values(), ids=BREACHES.keys())
def breach(request: pytest.FixtureRequest) -> tuple[str, Answer, str, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("verb", "answer"),
    [
        ("CONNECT", "554 not you"),
        ("EHLO", "502 what?"),
        ("RCPT", "550 5.1.1 nobody"),
        ("RCPT", "501 5.1.3 no address"),
        ("MAIL", "421 4.3.2 going"),
        ("DATA", DROP),
        ("MAIL", "555 5.7.1 policy"),
    ],
)
def test_a_no_or_a_lost_connection_is_no_breach(
    start_gateway: StartGateway, peers: tuple[Peer, Peer], verb: str, answer: Answer
) -> None:
    rude, polite = peers
    rude.always(verb, answer)
    gateway = start(start_gateway, rude, polite)
    submit(gateway.port, SENDER, [RECIPIENT])
    gateway.wait_until(lambda: [e for e in gateway.events() if "stage" in e])
    gateway.terminate()
    assert not (gateway.spool / "notices.json").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_host_is_told_of_once_by_all_workers_and_after_a_restart(
    start_gateway: StartGateway, peers: tuple[Peer, Peer], workers: str
) -> None:
    rude, polite = peers
    rude.always("MAIL", "354 go")
    gateway = start(start_gateway, rude, polite, "--workers", workers, "--retry", "1d")
    for n in range(8):
        submit(gateway.port, SENDER, [f"u{n}@there.example"])
    gateway.wait_until(lambda: notices(polite), "a notice")
    gateway.terminate()
    gateway.start()
    for n in range(8, 12):
        submit(gateway.port, SENDER, [f"u{n}@there.example"])
    gateway.wait_until(lambda: len([e for e in gateway.events() if "stage" in e]) >= 13)
    gateway.terminate()
    assert len(notices(polite)) == 1
    assert len(json.loads((gateway.spool / "notices.json").read_bytes())) == 1


def test_nothing_is_told_of_the_delivery_of_a_notice_or_of_a_report(
    start_gateway: StartGateway, peer: Peer
) -> None:
    # The one host there is breaks the protocol for notices and for reports as well.
    for somebody in (POSTMASTER, SENDER):
        peer.recipient(somebody, "399 what")
    peer.once("RCPT", "550 5.1.1 nobody")
    gateway = start_gateway("--smarthost", peer.spec, "--notify-postmaster", POSTMASTER)
    submit(gateway.port, SENDER, ["nobody@there.example"])
    gateway.wait_for("deferred", recipient=SENDER)
    assert not (gateway.spool / "notices.json").exists()
    # A breach that is told of; the notice itself meets the same one, and that is all.
    submit(gateway.port, "other@here.example", [POSTMASTER])
    gateway.wait_for("deferred", recipient=POSTMASTER, count=2)
    submit(gateway.port, "other@here.example", [RECIPIENT])
    gateway.wait_for("delivered", recipient=RECIPIENT)
    assert len(gateway.events("accepted", recipients=[POSTMASTER], client="")) == 1


def test_without_the_flag_nobody_is_told(
    start_gateway: StartGateway, peers: tuple[Peer, Peer]
) -> None:
    rude, polite = peers
    rude.always("MAIL", "354 go")
    gateway = start_gateway(
        *("--smarthost", f"127.0.0.2:{rude.address[1]}", "--smarthost", polite.spec)
    )
    submit(gateway.port, SENDER, [RECIPIENT])
    gateway.wait_until(lambda: [e for e in gateway.events() if "stage" in e])
    assert not (gateway.spool / "notices.json").exists()
