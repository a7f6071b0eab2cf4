"""Sessions with a scripted next hop, for the tests of smtp/: as far as a test wants them begun."""

import time
from collections.abc import Callable

import pytest

from gwrelay.errors import ConnectionLost
from gwrelay.smtp.connection import TIMEOUTS_S, Connection
from support.peer import Peer

MX = "mx.peer.example"

#: Long enough for anything on loopback, short enough for a failing test.
PATIENCE_S = 10.0
#: A stage's whole time in the tests that let it run out, and what that may take at most.
SHORT_S = 0.15
SOON_S = 3.0


def connection(source: str = "", reply_max_bytes: int = 64 * 1024, **short: float) -> Connection:
    timeouts_s = dict.fromkeys(TIMEOUTS_S, PATIENCE_S) | short
    return Connection(
        "gw.example", timeouts_s=timeouts_s, source=source, reply_max_bytes=reply_max_bytes
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
