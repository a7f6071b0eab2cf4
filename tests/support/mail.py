"""Envelopes and outcomes as the tests of queue/ and relay/ need them by the dozen."""

from gwrelay.message import outcome
from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply
from gwrelay.queue.store import State, Store

CONTENT = b"Subject: hello\r\n\r\nIs anybody there?\r\n"

DELIVERED = Outcome(
    Kind.DELIVERED,
    outcome.DOT,
    Reply(250, "2.0.0", "taken"),
    exchange="mx.test",
    address="192.0.2.1",
)
DEFERRED = DELIVERED._replace(
    kind=Kind.DEFERRED, stage=outcome.RCPT, reply=Reply(450, "4.2.1", "greylisted")
)
FAILED = DELIVERED._replace(
    kind=Kind.FAILED, stage=outcome.RCPT, reply=Reply(550, "5.1.1", "nobody of that name")
)
IN_DOUBT = DEFERRED._replace(
    stage=outcome.DOT, reply=Reply(421, "4.4.2", "lost"), in_doubt=True, heard=False
)
UNREACHED = DEFERRED._replace(
    stage=outcome.CONNECT, reply=Reply(421, "4.4.1", "connection refused"), heard=False
)

#: The content on disk failed its checksum.
HELD = Outcome(
    Kind.DEFERRED,
    outcome.CONTENT,
    Reply(451, "4.3.0", "the spooled message cannot be read"),
    heard=False,
    hold="checksum",
)


def envelope(*addresses: str | Recipient, reverse_path: str = "sender@a.test") -> Envelope:
    recipients = (Recipient(a) if isinstance(a, str) else a for a in addresses)
    return Envelope(reverse_path, tuple(recipients))


def loaded(store: Store) -> list[tuple[int, State]]:
    """What the store has, in its order."""
    return [one for some in store.load() for one in some]
