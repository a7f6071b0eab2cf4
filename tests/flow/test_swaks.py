"""swaks, which people test mail servers with, against the gateway."""

from pathlib import Path

import pytest

from support.gateway import Gateway, StartGateway, expected_once, without_received
from support.peer import Peer
from support.processes import program, run


def swaks(gateway: Gateway, *arguments: str) -> str:
    """Run swaks; its transcript.  Fails unless swaks says that all went well."""
    server = ["--server", "127.0.0.1", "--port", str(gateway.port), "--ehlo", "client.example"]
    return run([program("swaks"), *server, "--from", "me@here.example", *arguments])


@pytest.fixture
def gateway(start_gateway: StartGateway, peer: Peer) -> Gateway:
    return start_gateway("--smarthost", peer.spec)


def test_a_message_of_swaks_arrives(gateway: Gateway, peer: Peer) -> None:
    transcript = swaks(gateway, "--to", "you@there.example", "--body", "Hello from swaks")
    assert "250-PIPELINING" in transcript
    peer.wait_for_messages(1)
    assert b"Hello from swaks" in peer.messages[0].content
    assert peer.messages[0].reverse_path == "me@here.example"


def test_a_message_in_8_bit_arrives_byte_by_byte(
    gateway: Gateway, peer: Peer, tmp_path: Path
) -> None:
    content = b"Subject: latin\r\n\r\n\xe4\xf6\xfc \xff\x80\r\n.\r\n..\r\n"
    source = tmp_path / "message"
    source.write_bytes(content)
    swaks(gateway, "--to", "you@there.example", "--data", f"@{source}")
    peer.wait_for_messages(1)
    # swaks ends what it sends with a line end of its own.
    assert without_received(peer.messages[0].content).rstrip(b"\r\n") == content.rstrip(b"\r\n")


@pytest.mark.parametrize("pipelining", [[], ["--pipeline"]], ids=["lockstep", "pipelined"])
def test_all_recipients_of_a_message_get_it(
    gateway: Gateway, peer: Peer, pipelining: list[str]
) -> None:
    recipients = [f"user{n}@dest{n % 3}.example" for n in range(12)]
    swaks(gateway, "--to", ",".join(recipients), *pipelining)
    peer.wait_for(lambda p: p.arrived().total() >= len(recipients))
    expected_once(recipients, peer.arrived())
