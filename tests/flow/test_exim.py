"""Exim as the next hop: another server's replies, extensions and habits."""

from pathlib import Path

from support.clients import Load, submit
from support.gateway import StartGateway, expected_once
from support.peer import Peer
from support.servers import Exim

BODY = "\r\n.\r\n..\r\nGrüße\r\n" + "x" * 990 + "\r\n\r\n\r\n"


def test_exim_gets_the_content_unchanged(
    start_gateway: StartGateway, open_directory: Path, peer: Peer
) -> None:
    with Exim(open_directory / "exim", peer.spec) as exim:
        gateway = start_gateway("--smarthost", exim.spec)
        content = f"Subject: dots\r\nX-Empty:\r\n\r\n{BODY}".encode()
        recipients = ["a@one.example", "b@two.example"]
        submit(gateway.port, "", recipients, content, mail_parameters="BODY=8BITMIME")
        peer.wait_for(lambda p: p.arrived().total() >= 2)
    expected_once(recipients, peer.arrived())
    assert all(message.content.endswith(b"\r\n\r\n" + BODY.encode()) for message in peer.messages)


def test_exim_gets_each_message_of_a_load_once(
    start_gateway: StartGateway, open_directory: Path, peer: Peer
) -> None:
    with Exim(open_directory / "exim", peer.spec) as exim:
        gateway = start_gateway("--smarthost", exim.spec)
        with Load(gateway.port, threads=4) as load:
            peer.wait_for_messages(60, timeout=30)
            load.stop()
            peer.wait_for_messages(len(load.acknowledged), timeout=30)
        expected_once(load.acknowledged, peer.arrived())
