"""Sessions with a scripted next hop, for the tests of smtp/: as far as a test wants them begun."""

import socket
import time
from collections.abc import Callable
from typing import Self

import pytest

from gwrelay.errors import ConnectionLost
from gwrelay.smtp.client import Patience
from gwrelay.smtp.connection import TIMEOUTS_S, Connection
from support.peer import Peer

MX = "mx.peer.example"

#: Long enough for anything on loopback, short enough for a failing test.
PATIENCE_S = 10.0
#: A stage's whole time in the tests that let it run out, and what that may take at most.
SHORT_S = 0.15
SOON_S = 3.0

#: What the sessions wait by; None: as sockets do.
how_to_wait: Callable[[socket.socket], Patience] | None = None


class Recording(socket.socket):
    """A socket that remembers what each send() was given; `made` are those that connected."""

    made: list[Self]

    def connect(self, address: object) -> None:
        super().connect(address)  # type: ignore[arg-type]
        self.sent: list[bytes] = []
        self.made.append(self)

    def send(self, octets: bytes, flags: int = 0) -> int:  # type: ignore[override]
        self.sent.append(bytes(octets))
        return super().send(octets, flags)


def record(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """The sockets that connect from here on."""
    monkeypatch.setattr(Recording, "made", [], raising=False)
    monkeypatch.setattr(socket, "socket", Recording)
    return Recording.made


def connection(source: str = "", reply_max_bytes: int = 64 * 1024, **short: float) -> Connection:
    timeouts_s = dict.fromkeys(TIMEOUTS_S, PATIENCE_S) | short
    return Connection(
        "gw.example",
        timeouts_s=timeouts_s,
        source=source,
        reply_max_bytes=reply_max_bytes,
        patience=how_to_wait,
    )


def opened(peer: Peer, **short: float) -> Connection:
    made = connection(**short)
    assert made.open(*peer.address, MX).is_positive
    return made


def greeted(peer: Peer, **short: float) -> Connection:
    made = opened(peer, **short)
    assert made.ehlo().code == 250
    return made


def lost(action: Callable[[], object]) -> ConnectionLost:
    """The loss that `action` ends in, and soon."""
    started = time.monotonic()
    with pytest.raises(ConnectionLost) as caught:
        action()
    assert time.monotonic() - started < SOON_S
    return caught.value
