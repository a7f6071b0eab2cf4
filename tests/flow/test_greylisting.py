"""Next hops that put off whom they do not know: Postfix and Exim with a greylist beside them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.clients import submit
from support.gateway import StartGateway, expected_once
from support.greylist import WORDS, Greylist
from support.peer import Peer
from support.servers import Exim, Postfix

SENDER = "me@here.example"
NEW, KNOWN = "new@dest.example", "known@dest.example"
BODY = b".\r\n..two\r\n" + b"x" * 900 + b"\r\n\r\n"
CONTENT = b"Subject: dots\r\n\r\n" + BODY
#: How long the greylist puts off, and waits of the gateway: too short the first time, and enough.
DELAY_S = 0.8
IMPATIENT, PATIENT = "200ms", "1s"

#: Makes a server: its directory, whom it hands on to, its greylist.
SERVERS: dict[str, Callable[[Path, str, Greylist], Any]] = {
    "Postfix": lambda at, relay_host, greylist: Postfix(at, relay_host, greylist.in_postfix),
    "Exim": lambda at, relay_host, greylist: Exim(at, relay_host, rcpt_acl=greylist.in_exim),
}


@pytest.fixture
def greylist() -> Iterator[Greylist]:
    with Greylist(DELAY_S, known=[KNOWN]) as running:
        yield running


@pytest.fixture(params=SERVERS)
def server(
    request: pytest.FixtureRequest, open_directory: Path, peer: Peer, greylist: Greylist
) -> Iterator[Any]:
    """One of them, running; what it takes goes on to `peer`."""
    with ExitStack() as stack:
        make = SERVERS[request.param]
        yield stack.enter_context(make(open_directory / "server", peer.spec, greylist))


def test_greylisted_mail_is_put_off_and_delivered_by_the_next_attempt(
    start_gateway: StartGateway, server: Any, peer: Peer, greylist: Greylist
) -> None:
    gateway = start_gateway("--smarthost", server.spec, "--retry", PATIENT, "--jitter", "0")
    submit(gateway.port, SENDER, [NEW], CONTENT)
    [delivered] = gateway.wait_for("delivered")
    [deferred] = gateway.events("deferred")
    assert deferred["stage"] == "rcpt"
    assert deferred["reply"].startswith(("450 4.7.1 ", "451 4.7.1 "))
    assert WORDS in deferred["reply"]
    assert delivered["attempt"] == 2
    assert greylist.asked == [("127.0.0.1", SENDER, NEW)] * 2
    peer.wait_for_messages(1)
    expected_once([NEW], peer.arrived())
    assert peer.messages[0].content.endswith(b"\r\n\r\n" + BODY)


def test_mail_that_comes_back_too_soon_is_put_off_until_it_is_not(
    start_gateway: StartGateway, server: Any, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", server.spec, "--retry", IMPATIENT)
    submit(gateway.port, SENDER, [NEW], CONTENT)
    [delivered] = gateway.wait_for("delivered")
    assert delivered["attempt"] >= 3
    assert len(gateway.events("deferred")) == delivered["attempt"] - 1
    peer.wait_for_messages(1)
    expected_once([NEW], peer.arrived())


def test_only_the_greylisted_recipient_waits_and_is_asked_about_again(
    start_gateway: StartGateway, server: Any, peer: Peer, greylist: Greylist
) -> None:
    gateway = start_gateway("--smarthost", server.spec, "--retry", PATIENT, "--jitter", "0")
    submit(gateway.port, SENDER, [NEW, KNOWN], CONTENT)
    for recipient in (KNOWN, NEW):
        gateway.wait_for("delivered", recipient=recipient)
    assert [event["attempt"] for event in gateway.events("delivered", recipient=KNOWN)] == [1]
    assert [event["attempt"] for event in gateway.events("delivered", recipient=NEW)] == [2]
    assert [triplet.recipient for triplet in greylist.asked] == [NEW, KNOWN, NEW]
    peer.wait_for_messages(2)
    expected_once([NEW, KNOWN], peer.arrived())
    assert all(message.content.endswith(b"\r\n\r\n" + BODY) for message in peer.messages)


def test_a_greylist_that_never_lets_mail_in_makes_a_bounce_with_its_words(
    start_gateway: StartGateway, server: Any, peer: Peer, greylist: Greylist
) -> None:
    """The sender, who gets the report, is nobody that it puts off."""
    greylist.delay_s = 3600
    flags = ["--retry", IMPATIENT, "--lifetime", "1s"]
    gateway = start_gateway("--smarthost", server.spec, *flags)
    submit(gateway.port, KNOWN, [NEW], CONTENT)
    [expired] = gateway.wait_for("expired")
    assert WORDS in expired["reply"]
    [report] = peer.wait_for_messages(1)
    assert report.recipients == (KNOWN,)
    assert report.reverse_path == ""
    assert WORDS.encode() in report.content
    assert b"Status: 4.4.7" in report.content
