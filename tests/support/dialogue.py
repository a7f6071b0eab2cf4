"""Talk to a Session as a client would: bytes in, replies and messages out.

converse() says the same text three ways (whole, byte by byte, with trailing bytes) and insists
that the session heard the same each time.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from gwrelay.message.envelope import Envelope
from gwrelay.message.reply import Reply
from gwrelay.smtp.session import Discard, Event, Piece, Policy, Session

POLICY = Policy("gw.example", 1_000_000)
QUEUED = Reply(250, "2.0.0", "queued")
ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
TO_CONTENT = b"EHLO client.example\r\n" + ENVELOPE + b"DATA\r\n"


class Heard(NamedTuple):
    """What came of a text.  `codes` is "250 2.1.0", or "354" where there is no status."""

    output: bytes
    codes: list[str]
    messages: list[tuple[Envelope, bytes]]
    closing: bool


class Client:
    """Feeds a session chunks and answers each message at once."""

    def __init__(
        self,
        policy: Policy = POLICY,
        *,
        may_relay: bool = True,
        intake: Reply | None = None,
        answer: Reply = QUEUED,
    ) -> None:
        self.session = Session(policy, may_relay=may_relay, intake=lambda: intake)
        self._answer = answer
        self._pieces: list[bytes] = []
        self.messages: list[tuple[Envelope, bytes]] = []
        self.output = b""
        self.discards = 0

    def say(self, *chunks: bytes) -> list[str]:
        """Feed `chunks`; the codes of the replies to them."""
        before = len(self.output)
        for chunk in chunks:
            self._take(self.session.receive(chunk))
            self.output += self.session.output()
        return codes(self.output[before:])

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Piece):
                self._pieces.append(event.content)
            elif isinstance(event, Discard):
                self.discards += 1
                self._pieces.clear()
            else:
                whole = b"".join([*self._pieces, event.content])
                self._pieces.clear()
                self.messages.append((event.envelope, whole))
                self._take(self.session.answer(self._answer))


def codes(output: bytes) -> list[str]:
    """The last line of each reply, cut down to its code and status."""
    assert output.endswith(b"\r\n") or not output
    found = []
    for line in output.decode().split("\r\n")[:-1]:
        matched = re.match(r"([2-5]\d\d)([ -])([245]\.\d\.\d+(?= ))?", line)
        assert matched, line
        if matched[2] == " ":
            found.append(" ".join(part for part in (matched[1], matched[3]) if part))
    return found


def _hear(text: Iterable[bytes], policy: Policy, options: dict[str, object]) -> Heard:
    client = Client(policy, **options)  # type: ignore[arg-type]
    client.say(*text)
    return Heard(client.output, codes(client.output), client.messages, client.session.closing)


def converse(text: bytes, policy: Policy = POLICY, **options: object) -> Heard:
    """What came of `text`, however it was cut and whatever began after it."""
    whole = _hear([text], policy, options)
    by_byte = [text[at : at + 1] for at in range(len(text))]
    assert _hear(by_byte, policy, options) == whole
    assert _hear([text + b"NO"], policy, options) == whole
    return whole
