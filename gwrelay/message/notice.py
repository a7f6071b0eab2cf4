"""A next hop that broke the protocol → the message that tells the postmaster of it.

Pure.  Whether he is told is decided in relay/breaches.py.  What a next hop said is hostile text: it
goes in as printable ASCII, each line cut to a length.
"""

import re
from email.utils import formatdate
from typing import NamedTuple

from gwrelay.message.envelope import message_name

_MOST_LINES, _MOST_CHARACTERS = 100, 300
_UNPRINTABLE = re.compile(r"[^ -~]")


class Breach(NamedTuple):
    """What a host said, or did, that no server that keeps to RFC 5321 would."""

    exchange: str
    address: str
    #: As in message/outcome.py.
    stage: str
    #: Its reply, or what came instead of one.
    said: str
    #: See Transcript.lines().
    transcript: tuple[str, ...] = ()


def build(breach: Breach, *, to: str, hostname: str, message_id: int, now: float) -> bytes:
    """As content: canonical CRLF lines, 7-bit.  `now` is Unix seconds."""
    host = _line(f"{breach.exchange}[{breach.address}]")
    # The latest lines are those which matter.
    lines = [f"    {_line(line)}" for line in breach.transcript[-_MOST_LINES:]]
    text = (
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{to}>",
        f"Subject: {host} breaks the protocol",
        f"Date: {formatdate(now)}",
        f"Message-ID: <{message_name(message_id)}@{hostname}>",
        # RFC 3834 5: no vacation program shall answer this.
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"This is the mail gateway at {hostname}. A host that it delivers mail to has said",
        "what SMTP (RFC 5321) does not allow there. The mail concerned is not lost: it waits,",
        "and is tried again. If this goes on, tell those who run that host.",
        "",
        f"Host:  {host}",
        f"Stage: {breach.stage}",
        *(f"Said:  {_line(line)}" for line in breach.said.splitlines()[:_MOST_LINES]),
        "",
        "What was said last (> we, < the host), without passwords and content:",
        "",
        *(lines or ["    [nothing]"]),
        "",
        "There is no further notice about this host within an hour.",
        "",
    )
    return "\r\n".join(text).encode("ascii")


def _line(text: str) -> str:
    return _UNPRINTABLE.sub("?", text[:_MOST_CHARACTERS])
