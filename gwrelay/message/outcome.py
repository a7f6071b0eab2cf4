"""What became of one recipient in one attempt: delivered, deferred or failed.

Pure.  Every reply of a next hop, and every way of losing the connection to it, is judged
here and nowhere else (RFC 5321 4.2.1, 4.2.4.1; RFC 3463).  What is not understood is
deferred: a wrong "failed" destroys mail, a wrong "deferred" only costs time.
"""

from enum import Enum
from typing import NamedTuple

from gwrelay.errors import ConnectionLost
from gwrelay.message.reply import Reply


class Kind(Enum):
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


#: The stages of an attempt, in order.  Up to AUTH it is the host that says no, to all
#: mail alike; from MAIL on it speaks of this message or this recipient.
DNS = "dns"
CONNECT = "connect"
BANNER = "banner"
EHLO = "ehlo"
STARTTLS = "starttls"
AUTH = "auth"
MAIL = "mail"
RCPT = "rcpt"
DATA = "data"
CONTENT = "content"
DOT = "dot"
RSET = "rset"
QUIT = "quit"

_ABOUT_THE_MESSAGE = frozenset((MAIL, RCPT, DATA, DOT))


class Outcome(NamedTuple):
    """`reply` is the next hop's, or ours where it said nothing (then `heard` is False)."""

    kind: Kind
    stage: str
    reply: Reply
    #: The final dot was sent and no answer came: it may have been delivered (RFC 5321
    #: 4.5.3.2.6), and trying again may deliver it twice.
    in_doubt: bool = False
    heard: bool = True
    #: Who said so: the exchange's name and the address used; "" when nobody was reached.
    exchange: str = ""
    address: str = ""
    #: How the session was protected when this was said: version, cipher, and "verified" or
    #: "unverified"; "" in the clear.
    tls: str = ""
    #: Why it must not be tried again before an operator has looked; "": it may.
    hold: str = ""


def judge(stage: str, reply: Reply) -> Kind:
    """The outcome that `reply` at `stage` means for the recipients it speaks about.

    Only a 2xx to the final dot delivers (RFC 5321 4.2.5).  A 5xx is final from MAIL on;
    before that it is the host's trouble, not the message's, and another host or another
    hour may do better.
    """
    if stage in _ABOUT_THE_MESSAGE:
        if reply.is_permanent:
            return Kind.FAILED
        if stage == DOT and reply.is_positive:
            return Kind.DELIVERED
    return Kind.DEFERRED


def of_reply(stage: str, reply: Reply, exchange: str = "", address: str = "") -> Outcome:
    return Outcome(judge(stage, reply), stage, reply, exchange=exchange, address=address)


def of_loss(lost: ConnectionLost, exchange: str = "", address: str = "") -> Outcome:
    """A connection that broke: deferred always, and in doubt once the dot was sent."""
    in_doubt = lost.stage == DOT
    text = f"{lost} - possible duplicate" if in_doubt else str(lost)
    status = lost.status or ("4.4.1" if lost.stage == CONNECT else "4.4.2")
    reply = Reply(421, status, text)
    return Outcome(Kind.DEFERRED, lost.stage, reply, in_doubt, False, exchange, address)


def of_ours(stage: str, reply: Reply) -> Outcome:
    """Our own verdict, reached without asking anybody: no route, too large, too old."""
    kind = Kind.FAILED if reply.is_permanent else Kind.DEFERRED
    return Outcome(kind, stage, reply, heard=False)


def ends_transaction(reply: Reply) -> bool:
    """Whether nothing more may follow `reply` to MAIL or RCPT in its transaction.

    421 announces a close (RFC 5321 3.8).  What is neither yes nor no says that the two ends
    have lost step: whose answer the next reply is, nobody knows.
    """
    return reply.code == 421 or reply.code // 100 not in (2, 4, 5)


def spoils_session(stage: str, reply: Reply) -> bool:
    """Whether the session must not carry another message after `reply` at `stage`.

    421 announces a close (RFC 5321 3.8).  Codes outside the grammar, an unexpected 1xx or
    3xx, and "I do not understand you" (50x, 555) say that the two ends have lost step.
    """
    code = reply.code
    if code == 421 or code in (500, 501, 502, 503, 504, 555):
        return True
    if 400 <= code < 600:
        return False
    if stage == DATA:
        return code != 354
    return not reply.is_positive
