"""What the load generator hands over, and what it is told: values, and their bytes on the wire.

No sockets here (source.py has them).  The wire form follows RFC 5321 4.1.1 and 4.5.2.
"""

from collections.abc import Set
from functools import lru_cache
from typing import NamedTuple


class Submission(NamedTuple):
    """One message as a client hands it over.

    `content` is canonical: empty, or lines that each end with CRLF, not dot-stuffed.
    """

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes


class Receipt(NamedTuple):
    """What became of one Submission at the server it was handed to.

    Times are Unix seconds: when the final dot had been given to the kernel, and when the
    reply to it was read.  `code` is 0 when the session broke; `text` then says how.
    """

    submission: Submission
    sent_at: float
    answered_at: float
    code: int
    text: str
    #: (recipient, reply) of each RCPT that was not accepted.
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def accepted(self) -> bool:
        return self.code == 250


def envelope_commands(submission: Submission, extensions: Set[str]) -> list[bytes]:
    """MAIL, each RCPT, DATA.  Parameters only for extensions the server offers."""
    mail = f"MAIL FROM:<{submission.reverse_path}>"
    if "SIZE" in extensions:
        mail += f" SIZE={len(submission.content)}"
    if "8BITMIME" in extensions and not submission.content.isascii():
        mail += " BODY=8BITMIME"
    mailboxes = (submission.reverse_path, *submission.recipients)
    if "SMTPUTF8" in extensions and not all(map(str.isascii, mailboxes)):
        mail += " SMTPUTF8"
    commands = [mail, *(f"RCPT TO:<{recipient}>" for recipient in submission.recipients), "DATA"]
    return [f"{command}\r\n".encode() for command in commands]


@lru_cache(maxsize=64)
def wire_content(content: bytes) -> bytes:
    """`content` dot-stuffed, and the final dot.

    Cached because a load run sends one content thousands of times.  Raises ValueError when
    the last line has no end: the dot would join it.
    """
    if content and not content.endswith(b"\r\n"):
        raise ValueError("content does not end with CRLF")
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n..")
    if content.startswith(b"."):
        content = b"." + content
    return content + b".\r\n"


def text_content(size_bytes: int) -> bytes:
    """A plain message of `size_bytes` or up to one line more, in lines of 76 characters."""
    head = b"From: source@source.example\r\nTo: r0@sink.example\r\nSubject: load\r\n\r\n"
    line = b"The quick brown fox jumps over the lazy dog, and the dog does not mind: it\r\n"
    return head + line * max(0, -(-(size_bytes - len(head)) // len(line)))
