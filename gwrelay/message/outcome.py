"""What became of one recipient in one attempt: delivered, deferred or failed.

Pure.  Every reply of a next hop, and every way of losing the connection to it, is judged here and
nowhere else, in one table: stage × class of reply → verdict.  A verdict has three parts: for the
recipients it speaks about, for the host's bad-host mark, and for the session (RFC 5321 3.1, 4.2,
4.2.5).  What is not understood is deferred: a wrong "failed" destroys mail, a wrong "deferred"
only costs time.
"""

import re
from collections.abc import Collection
from enum import Enum
from typing import NamedTuple

from gwrelay.errors import ConnectionLost
from gwrelay.message.reply import Reply


class Kind(Enum):
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


class Host(Enum):
    """What becomes of its bad-host mark."""

    ALIVE = "alive"  # taken away: whoever speaks of a message is at work
    PASSED_OVER = "passed over"  # as it was: it will not have us, or it spoke of us alone
    BAD = "bad"  # marked: others are asked first for a while


class Verdict(NamedTuple):
    """`kind` is None where the session goes on to its next stage, and nothing is decided yet."""

    kind: Kind | None
    host: Host
    #: No further message may use the session.
    closes: bool
    #: It may have been delivered, and trying again may deliver it twice (RFC 5321 4.5.3.2.6).
    in_doubt: bool = False


#: The stages of an attempt, in order.  Up to AUTH it is the host that says no, to all mail
#: alike; from MAIL on it speaks of this message or this recipient.
DNS, CONNECT, BANNER, EHLO, STARTTLS, AUTH = "dns", "connect", "banner", "ehlo", "starttls", "auth"
MAIL, RCPT, DATA, CONTENT, DOT = "mail", "rcpt", "data", "content", "dot"
RSET, QUIT = "rset", "quit"

#: Classes of replies, as columns of the table.  LEAVING announces a close (421, RFC 5321 3.8).
#: BLOCKED is a "no" that names our own address: it is about us, not about the mail.  BAFFLED is
#: "I do not understand you", which tells nothing about the mail.  ODD is no reply one may give
#: here.  LOST is none at all: closed, timed out, or no SMTP.
POSITIVE, GO_AHEAD, LATER, LEAVING, NO, BLOCKED, BAFFLED, ODD, LOST = range(9)

# A cell is three letters.  For the recipients: . go on, + delivered, ~ deferred, x failed,
# ? deferred and in doubt.  For the host: o alive, - passed over, ! bad.  For the session:
# = goes on, # closes.
_TABLE = """
            2xx  354  4xx  421  5xx  us   50x  odd  lost
  dns       ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#
  connect   ~!#  ~!#  ~!#  ~!#  ~!#  ~!#  ~!#  ~!#  ~!#
  banner    .-=  ~!#  ~!#  ~!#  ~-#  ~-#  ~-#  ~!#  ~!#
  ehlo      .-=  ~!#  ~!#  ~!#  ~-=  ~-=  ~-=  ~!#  ~!#
  starttls  .-=  ~-#  ~-=  ~!#  ~-=  ~-=  ~-=  ~-#  ~-#
  auth      .-=  ~!#  ~!=  ~!#  ~!=  ~!=  ~!=  ~!#  ~!#
  mail      .o=  ~o#  ~o=  ~o#  xo=  ~o=  ~o#  ~o#  ~-#
  rcpt      .o=  ~o#  ~o=  ~o#  xo=  ~o=  ~o#  ~o#  ~o#
  data      ~o#  .o=  ~o=  ~o#  xo=  ~o=  ~o#  ~o#  ~o#
  content   ~o#  ~o#  ~o#  ~o#  ~o#  ~o#  ~o#  ~o#  ~o#
  dot       +o=  ~o#  ~o=  ~o#  xo=  ~o=  ~o#  ~o#  ?o#
  rset      .-=  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#
  quit      .-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#
"""
# An EHLO that is refused is followed by HELO in the same session (RFC 5321 3.2).  After a refused
# STARTTLS or AUTH the session is sound, whatever policy makes of it.  A host whose TLS fails may do
# well for other mail; one that takes our password for wrong is left alone, for each further try
# would only make it worse.

_KINDS = {".": None, "+": Kind.DELIVERED, "~": Kind.DEFERRED, "?": Kind.DEFERRED, "x": Kind.FAILED}
_HOSTS = {"o": Host.ALIVE, "-": Host.PASSED_OVER, "!": Host.BAD}


def _verdict(cell: str) -> Verdict:
    kind, host, session = list(cell)
    return Verdict(_KINDS[kind], _HOSTS[host], session == "#", kind == "?")


_VERDICTS: dict[str, tuple[Verdict, ...]] = {
    stage: tuple(map(_verdict, cells))
    for stage, *cells in (line.split() for line in _TABLE.strip().splitlines()[1:])
}

#: Of codes that say it all.
_CLASSES: dict[int, int] = {
    **dict.fromkeys(range(200, 300), POSITIVE),
    **dict.fromkeys(range(400, 500), LATER),
    354: GO_AHEAD,
    421: LEAVING,
}
#: 50x and 555: about the command, unless the enhanced status says that it is about the mail.
_ABOUT_THE_COMMAND = frozenset((500, 501, 502, 503, 504, 555))


def class_of(reply: Reply, our_addresses: Collection[str] = ()) -> int:
    """The column for `reply`, said to one of `our_addresses`.

    "501 5.1.3" and the like are clear refusals; a bare 501, or one with the protocol's own
    statuses (RFC 3463 3.6: x.5.x), says that the two ends have lost step.
    """
    code = reply.code
    known = _CLASSES.get(code)
    if known is not None:
        return known
    if not 500 <= code < 600:
        return ODD
    if code in _ABOUT_THE_COMMAND and reply.status[2:4] in ("", "5."):
        return BAFFLED
    # x.1.x and x.2.x speak of an address or a mailbox (RFC 3463 3.2, 3.3), whomever else they name.
    if our_addresses and reply.status[2:4] not in ("1.", "2.") and _names(reply, our_addresses):
        return BLOCKED
    return NO


def _names(reply: Reply, addresses: Collection[str]) -> bool:
    """Whether one of these IP addresses is in the text: "client host [192.0.2.1] blocked"."""
    text = reply.text.lower()
    return any(
        re.search(rf"(?<![\w.:]){re.escape(address.lower())}(?![\w:]|\.\w)", text)
        for address in addresses
    )


def verdict_on(stage: str, reply: Reply, our_addresses: Collection[str] = ()) -> Verdict:
    column = _CLASSES.get(reply.code)
    return _VERDICTS[stage][class_of(reply, our_addresses) if column is None else column]


def verdict_on_loss(stage: str) -> Verdict:
    return _VERDICTS[stage][LOST]


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
    #: Delivered to a next hop that knows no DSN, though the sender wants to hear of success: we
    #: owe the report that says so (RFC 3461 5.2.2).
    relayed: bool = False
    #: This machine failed, not the host: no descriptor left, no such source address.
    ours: bool = False


def judge(stage: str, reply: Reply) -> Kind:
    """The outcome that `reply` at `stage` means for the recipients it speaks about, if the
    attempt goes no further."""
    return verdict_on(stage, reply).kind or Kind.DEFERRED


def of_reply(stage: str, reply: Reply, exchange: str = "", address: str = "") -> Outcome:
    return Outcome(judge(stage, reply), stage, reply, False, True, exchange, address)


def of_loss(lost: ConnectionLost, exchange: str = "", address: str = "") -> Outcome:
    """A connection that broke: deferred always, and in doubt once the dot was sent."""
    in_doubt = verdict_on_loss(lost.stage).in_doubt
    text = f"{lost} - possible duplicate" if in_doubt else str(lost)
    if lost.ours:
        reply = Reply(451, lost.status or "4.3.0", text)
    else:
        status = lost.status or ("4.4.1" if lost.stage == CONNECT else "4.4.2")
        reply = Reply(421, status, text)
    return Outcome(
        Kind.DEFERRED, lost.stage, reply, in_doubt, False, exchange, address, ours=lost.ours
    )


def of_ours(stage: str, reply: Reply) -> Outcome:
    """Our own verdict, reached without asking anybody: no route, too large, too old."""
    kind = Kind.FAILED if reply.is_permanent else Kind.DEFERRED
    return Outcome(kind, stage, reply, heard=False)


def is_throttling(reply: Reply) -> bool:
    """Whether it asks us to slow down: 421, or a temporary refusal for reasons of policy (RFC 3463
    3.8), as of those who count what comes from where."""
    return reply.code == 421 or reply.status.startswith("4.7.")


def breaks_protocol(stage: str, reply: Reply) -> bool:
    """Whether a server that keeps to RFC 5321 says that only where something has gone wrong.

    Before MAIL, "I do not understand you" is how it says that it knows no such extension.
    """
    column = class_of(reply)
    if column == BAFFLED:
        return stage in (MAIL, RCPT, DATA, DOT)
    if column == GO_AHEAD:
        return stage != DATA
    if column == POSITIVE:
        return stage == DATA
    return column == ODD


def ends_transaction(reply: Reply) -> bool:
    """Whether nothing more may follow `reply` to MAIL or RCPT in its transaction.

    421 announces a close (RFC 5321 3.8).  What is neither yes nor no says that the two ends
    have lost step: whose answer the next reply is, nobody knows.
    """
    return reply.code == 354 or class_of(reply) in (LEAVING, ODD)
