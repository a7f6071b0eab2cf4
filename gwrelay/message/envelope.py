"""The envelope: who sends, who receives, and what they asked for (RFC 5321 2.3.1).

NamedTuples rather than dataclasses: one of each is built per message, and these cost a
fifth as much to build.
"""

from typing import NamedTuple


class Recipient(NamedTuple):
    """One RCPT TO.  `address` is the mailbox exactly as the client wrote it, without <>."""

    address: str
    #: RFC 3461 4.1: "", "NEVER", or a comma list of SUCCESS, FAILURE, DELAY (upper case).
    notify: str = ""
    #: RFC 3461 4.2: "type;xtext" as given, passed on unread.
    orcpt: str = ""

    @property
    def domain(self) -> str:
        """Destination: what follows the last @, lower case, without a trailing dot."""
        return self.address.rpartition("@")[2].lower().rstrip(".")


class Envelope(NamedTuple):
    """One message's MAIL FROM and RCPT TO."""

    #: "" is the null reverse-path: nobody to tell of a failure (RFC 5321 4.5.5).
    reverse_path: str
    recipients: tuple[Recipient, ...]
    #: What the content needs of its carrier: "7BIT" or "8BITMIME" (RFC 6152).
    body: str = "7BIT"
    smtputf8: bool = False
    #: RFC 3461 4.3: "", "FULL" or "HDRS".
    ret: str = ""
    #: RFC 3461 4.4: xtext as given.
    envid: str = ""


class Message(NamedTuple):
    """An envelope that is ours: it has an id and was answered 250."""

    id: int
    #: Unix seconds.
    arrived_at: float
    #: Content as stored, our Received field included.
    size_bytes: int
    envelope: Envelope


_ID_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
#: Two of them for each ten bits, as every message that comes in wants its name at once.
_PAIRS = [first + second for first in _ID_DIGITS for second in _ID_DIGITS]


def message_name(message_id: int) -> str:
    """How people see a message id: 13 letters and digits without i, l, o, u.

    Sorts as the ids do; stands in Received fields, 250 replies, events and logs.
    """
    # In one expression: to join a list of them takes twice as long.
    return (
        f"{_ID_DIGITS[message_id >> 60 & 31]}{_PAIRS[message_id >> 50 & 1023]}"
        f"{_PAIRS[message_id >> 40 & 1023]}{_PAIRS[message_id >> 30 & 1023]}"
        f"{_PAIRS[message_id >> 20 & 1023]}{_PAIRS[message_id >> 10 & 1023]}"
        f"{_PAIRS[message_id & 1023]}"
    )


def message_id(name: str) -> int:
    """The id that message_name() shows as `name`, in capitals too.  ValueError."""
    found = 0
    for letter in name.lower():
        found = found * 32 + _ID_DIGITS.index(letter)
    if len(name) != 13:
        raise ValueError(f"{len(name)} letters and digits, not 13")
    return found
