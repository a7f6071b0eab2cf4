"""What the two ends of a session said of late, for people.  Pure.

Bounded however long the session and whatever the other end sends.  No content of mail is in it, and
nothing that a password could be had from.
"""

from collections import deque

from gwrelay.message import outcome

#: The latest writes and reads, and the bytes of each: with those of one message, of EHLO and its
#: reply, a session takes some 3 KiB for it, and 7 KiB at the most.
_MOST, _MOST_BYTES = 24, 300


class Transcript:
    """Kept only where somebody wants to know: it takes half a microsecond a message."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said: deque[tuple[str, bytes]] = deque(maxlen=_MOST)

    def sent(self, stage: str, octets: bytes) -> None:
        if stage in (outcome.CONTENT, outcome.DOT):
            said = b"[%d bytes, content among them]" % len(octets)
        elif stage == outcome.AUTH:
            said = b"[AUTH]"
        else:
            said = octets[:_MOST_BYTES]
        self._said.append((">", said))

    def received(self, octets: bytes) -> None:
        self._said.append(("<", octets[:_MOST_BYTES]))

    def lines(self) -> tuple[str, ...]:
        """Each begins with > (we) or < (the other end).  What is no text is escaped."""
        return tuple(
            f"{who} {line.decode('ascii', 'backslashreplace')}"
            for who, octets in self._said
            for line in octets.splitlines()
        )
