"""Postfix in front of the gateway, and behind it."""

import email
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clients import submit
from support.gateway import StartGateway, expected_once
from support.peer import Peer
from support.processes import await_true, program, run
from support.servers import Postfix, SmtpSink


def load(to: str, count: int, recipient: str, sessions: int = 10) -> list[str]:
    """Send `count` messages of about 4 kB with Postfix's smtp-source; whom they are for."""
    command = [program("smtp-source"), "-s", str(sessions), "-m", str(count), "-l", "4000", "-N"]
    run([*command, "-f", "source@source.example", "-t", recipient, to])
    return [f"{n}{recipient}" for n in range(1, count + 1)]


def test_all_that_postfix_relays_through_the_gateway_arrives(
    start_gateway: StartGateway, open_directory: Path
) -> None:
    with SmtpSink(open_directory / "sink") as sink:
        gateway = start_gateway("--smarthost", sink.spec)
        with Postfix(open_directory / "postfix", gateway.spec) as postfix:
            sent = load(postfix.spec, 300, "user@dest.example")
            await_true(lambda: sink.recipients().total() >= len(sent), postfix.queue, 30, every=0.1)
            await_true(lambda: "is empty" in postfix.queue(), postfix.queue)
        expected_once(sent, sink.recipients())


def test_mail_of_local_programs_goes_through_postfix_and_the_gateway(
    start_gateway: StartGateway, open_directory: Path, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", peer.spec)
    recipients = ["a@one.example", "b@two.example", "c@one.example"]
    with Postfix(open_directory / "postfix", gateway.spec) as postfix:
        content = "Subject: greetings\n\n.\n..two dots\nund Ümläute\n".encode()
        postfix.sendmail("me@here.example", recipients, content)
        peer.wait_for(lambda p: p.arrived().total() >= 3)
    expected_once(recipients, peer.arrived())
    assert peer.messages[0].content.endswith("\r\n\r\n.\r\n..two dots\r\nund Ümläute\r\n".encode())
    assert "BODY=8BITMIME" in peer.messages[0].mail_parameters


@pytest.fixture
def postfix_behind(open_directory: Path, peer: Peer) -> Iterator[Postfix]:
    """A Postfix that greylists later@ and does not know gone@; all else goes on to `peer`."""
    access = (
        "inline:{ {gone@dest.example=550 5.1.1 no such mailbox}"
        " {later@dest.example=450 4.2.0 greylisted} }"
    )
    restrictions = f"check_recipient_access {access}, permit_mynetworks, reject"
    settings = {"smtpd_recipient_restrictions": restrictions}
    with Postfix(open_directory / "postfix", peer.spec, settings) as postfix:
        yield postfix


def test_postfix_as_smart_host_gets_each_message_once(
    start_gateway: StartGateway, postfix_behind: Postfix, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", postfix_behind.spec)
    sent = load(gateway.spec, 300, "user@dest.example")
    gateway.wait_for("delivered", count=len(sent), timeout=30)
    peer.wait_for_messages(len(sent), timeout=30)
    expected_once(sent, peer.arrived())
    await_true(lambda: postfix_behind.sent() == len(sent), postfix_behind.queue)


def test_what_postfix_says_of_each_recipient_is_what_becomes_of_it(
    start_gateway: StartGateway, postfix_behind: Postfix, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", postfix_behind.spec, "--retry", "1h")
    recipients = ["good@dest.example", "gone@dest.example", "later@dest.example"]
    submit(gateway.port, "me@here.example", recipients)
    [deferred] = gateway.wait_for("deferred", recipient="later@dest.example")
    [bounced] = gateway.wait_for("bounced", recipient="gone@dest.example")
    assert "greylisted" in deferred["reply"]
    assert bounced["reply"].startswith("550 5.1.1")
    peer.wait_for_messages(2)
    expected_once(["good@dest.example", "me@here.example"], peer.arrived())
    report = email.message_from_bytes(peer.message_to("me@here.example").content)
    assert report.get_content_type() == "multipart/report"
    assert "gone@dest.example" in str(report)
    assert "later@dest.example" not in str(report)
