"""CPython's own mail corpus goes through unchanged but for the one added field."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from support.clients import submit
from support.gateway import StartGateway, without_received
from support.peer import Peer


def corpus() -> dict[str, bytes]:
    """The corpus by file name, with the line ends of the wire."""
    try:
        found = importlib.util.find_spec("test.test_email")
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        pytest.skip(
            "this Python came without its own tests: apt-get install --no-install-recommends"
            f" libpython{version}-testsuite"
        )
    files = sorted((Path(found.origin).parent / "data").glob("msg_*.txt"))
    return {path.name: _on_the_wire(path.read_bytes()) for path in files}


def _on_the_wire(content: bytes) -> bytes:
    lines = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    return lines if lines.endswith(b"\r\n") else lines + b"\r\n"


def test_the_mail_corpus_arrives_byte_identical_but_for_the_received_field(
    start_gateway: StartGateway, peer: Peer
) -> None:
    messages = corpus()
    assert len(messages) > 40
    gateway = start_gateway("--smarthost", peer.spec)
    for name, content in messages.items():
        submit(
            gateway.port,
            "corpus@here.example",
            [f"{name}@dest.example"],
            content,
            mail_parameters="BODY=8BITMIME",
        )
    peer.wait_for_messages(len(messages))
    assert len(peer.messages) == len(messages)
    for name, content in messages.items():
        arrived = without_received(peer.message_to(f"{name}@dest.example").content)
        assert arrived == content, name
