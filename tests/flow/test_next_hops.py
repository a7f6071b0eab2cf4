"""Postfix, Exim and OpenSMTPD as next hops: their limits, their refusals, their greylisting."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.clients import Load, submit
from support.gateway import StartGateway, expected_once
from support.peer import Peer
from support.servers import Exim, OpenSMTPD, Postfix

SENDER = "me@here.example"
LIMIT_BYTES = 20_000


def postfix(directory: Path, relay_host: str) -> Postfix:
    access = (
        "inline:{ {gone@dest.example=550 5.1.1 no such mailbox}"
        " {later@dest.example=450 4.2.0 greylisted} }"
    )
    settings = {
        "smtpd_recipient_restrictions": f"check_recipient_access {access}, permit_mynetworks",
        "message_size_limit": str(LIMIT_BYTES),
    }
    return Postfix(directory, relay_host, settings)


def exim(directory: Path, relay_host: str) -> Exim:
    return Exim(directory, relay_host, max_message_size=str(LIMIT_BYTES))


def opensmtpd(directory: Path, relay_host: str) -> OpenSMTPD:
    return OpenSMTPD(directory, relay_host, str(LIMIT_BYTES))


#: A server, and whom it refuses.
SERVERS = {
    "Postfix": (postfix, "gone@dest.example"),
    "Exim": (exim, "gone@dest.example"),
    "OpenSMTPD": (opensmtpd, "somebody@other.example"),
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, open_directory: Path, peer: Peer) -> Iterator[Any]:
    """One of them, running; what it takes goes on to `peer`."""
    make: Callable[[Path, str], Any] = SERVERS[request.param][0]
    with make(open_directory / "server", peer.spec) as running:
        running.refused = SERVERS[request.param][1]
        yield running


def test_content_arrives_as_it_was(start_gateway: StartGateway, server: Any, peer: Peer) -> None:
    gateway = start_gateway("--smarthost", server.spec)
    body = b".\r\n..two\r\n" + b"x" * 900 + b"\r\n\r\n"
    submit(gateway.port, SENDER, ["a@dest.example"], b"Subject: dots\r\n\r\n" + body)
    [arrival] = peer.wait_for_messages(1, timeout=30)
    assert arrival.content.endswith(b"\r\n\r\n" + body)


def test_each_recipient_has_the_fate_its_server_says(
    start_gateway: StartGateway, server: Any, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", server.spec, "--retry", "1h")
    recipients = ["good@dest.example", "later@dest.example", server.refused]
    submit(gateway.port, "", recipients)
    gateway.wait_for("delivered", recipient="good@dest.example")
    [deferred] = gateway.wait_for("deferred", recipient="later@dest.example")
    [bounced] = gateway.wait_for("bounced", recipient=server.refused)
    assert deferred["reply"].startswith("45")
    assert bounced["reply"].startswith("550")
    peer.wait_for_messages(1, timeout=30)
    expected_once(["good@dest.example"], peer.arrived())


def test_a_message_over_the_limit_it_announces_is_not_sent(
    start_gateway: StartGateway, server: Any, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", server.spec)
    submit(
        gateway.port, "", ["a@dest.example"], b"Subject: x\r\n\r\n" + (b"x" * 78 + b"\r\n") * 500
    )
    [bounced] = gateway.wait_for("bounced")
    assert "5.3.4" in bounced["reply"]
    assert bounced["stage"] == "mail"
    assert peer.messages == []


def test_a_load_over_one_session_arrives_once_each(
    start_gateway: StartGateway, server: Any, peer: Peer
) -> None:
    """With one session to spare, envelopes go along with final dots where that is offered."""
    gateway = start_gateway("--smarthost", server.spec, "--site-concurrency", "1")
    with Load(gateway.port, threads=4) as load:
        # Bounded by what was handed in: the servers are slower than the gateway, all of them.
        gateway.wait_until(lambda: len(load.acknowledged) >= 100, "a hundred")
        load.stop()
        peer.wait_for_messages(len(load.acknowledged), timeout=120)
    expected_once(load.acknowledged, peer.arrived())
    assert not gateway.events("deferred")


def test_a_good_recipient_does_not_wait_for_those_a_server_has_enough_of(
    start_gateway: StartGateway, open_directory: Path, peer: Peer
) -> None:
    """Postfix hangs up with 421 after twenty errors, and more and more of these are ours."""
    access = "inline:{ {good@dest.example=OK} {dest.example=550 5.1.1 no such mailbox} }"
    settings = {
        "smtpd_recipient_restrictions": f"check_recipient_access {access}, permit_mynetworks",
        "smtpd_error_sleep_time": "0",
    }
    unknown = [f"u{n}@dest.example" for n in range(50)]
    with Postfix(open_directory / "server", peer.spec, settings) as server:
        gateway = start_gateway("--smarthost", server.spec, "--retry", "1h")
        submit(gateway.port, "", [*unknown, "good@dest.example"])
        gateway.wait_for("bounced", count=len(unknown))
        gateway.wait_for("delivered", recipient="good@dest.example", attempt=1)
        assert gateway.events("deferred") == []
        peer.wait_for_messages(1, timeout=30)
