"""Where the demo's mail goes: five domains with a character each, and who writes to them.

Every exchange is a loopback address of its own, all on one port, as exchanges on the
Internet are.  The domain of the senders is one more: their DSNs go there.
"""

import errno
from collections.abc import Iterator
from typing import NamedTuple

from gwrelay_bench.behaviour import UNKNOWN_USER, Behaviour
from gwrelay_bench.corpus import Specimen
from gwrelay_bench.sink import Sink
from gwrelay_bench.source import text_content
from gwrelay_bench.submission import Submission

#: Seconds a recipient stays greylisted; less than the first retry comes after.
GREYLIST_S = 0.7
#: Seconds from the first message of the mix until the late host takes connections.
LATE_S = 1.6

REFUSED = "nobody@west.example"
_NORTH, _SOUTH, _EAST = "127.0.0.2", "127.0.0.3", "127.0.0.4"
_GREY, _WEST, _SENDERS, _DARK = "127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.9"

#: Domain → what is the matter with it, in the words of the report.
CHARACTERS = {
    "north.example": "takes everything",
    "south.example": "its first exchange is down, its second takes everything",
    "east.example": "its only host comes up late",
    "grey.example": "greylists every sender",
    "west.example": "no MX, an address only; refuses one recipient",
}

TABLE = {
    "north.example": {"MX": ["10 mx.north.example."]},
    "mx.north.example": {"A": [_NORTH]},
    "south.example": {"MX": ["10 dark.south.example.", "20 mx.south.example."]},
    "dark.south.example": {"A": [_DARK]},
    "mx.south.example": {"A": [_SOUTH]},
    "east.example": {"MX": ["10 mx.east.example."]},
    "mx.east.example": {"A": [_EAST]},
    "grey.example": {"MX": ["10 mx.grey.example."]},
    "mx.grey.example": {"A": [_GREY]},
    "west.example": {"A": [_WEST]},
    "sender.example": {"MX": ["10 mx.sender.example."]},
    "mx.sender.example": {"A": [_SENDERS]},
}

RULES = Behaviour(refuse={REFUSED: UNKNOWN_USER}, greylist={"grey.example": GREYLIST_S})

#: Who gets the messages of the mix, in turn.
_CIRCLES = (
    ("ada@north.example",),
    ("bob@south.example",),
    ("ada@north.example", "cleo@east.example"),
    ("dora@grey.example",),
    ("ada@north.example", "alan@north.example", "bob@south.example", "emil@west.example"),
    ("emil@west.example", REFUSED),
    ("dora@grey.example", "fay@south.example", "cleo@east.example", "emil@west.example"),
)


class NoPort(Exception):
    """The loopback addresses of the exchanges cannot be had on any one port."""


class Exchanges(NamedTuple):
    """The sink, listening on all exchanges but the one that is down and the one that is late."""

    sink: Sink
    port: int

    def open_late(self) -> None:
        self.sink.listen(_EAST, self.port)


def open_exchanges(sink: Sink, tries: int = 20) -> Exchanges:
    """Find a port that is free on every exchange.  Raises NoPort."""
    for _ in range(tries):
        try:
            port = sink.listen(_NORTH)
            for address in (_SOUTH, _GREY, _WEST, _SENDERS):
                sink.listen(address, port)
        except OSError as error:
            sink.close()
            if error.errno != errno.EADDRINUSE:
                raise NoPort(
                    f"cannot listen on loopback addresses other than 127.0.0.1: {error}"
                ) from error
        else:
            return Exchanges(sink, port)
    raise NoPort(f"no port was free on all exchanges in {tries} tries")


def crowd(messages: int, size_bytes: int) -> Iterator[Submission]:
    """Messages alike, to the two domains that take everything at once."""
    content = text_content(size_bytes)
    recipients = ("ada@north.example", "emil@west.example")
    for number in range(messages):
        yield Submission(f"load{number}@sender.example", (recipients[number % 2],), content)


def mix(specimens: list[Specimen]) -> Iterator[Submission]:
    """Each specimen once, a DSN-like message, and one with an internationalised address."""
    for number, specimen in enumerate(specimens):
        circle = _CIRCLES[number % len(_CIRCLES)]
        yield Submission(f"mix{number}@sender.example", circle, specimen.content)
    yield Submission("", ("postmaster@north.example",), text_content(500))
    yield Submission("jörg@sender.example", ("zoë@north.example",), text_content(500))
