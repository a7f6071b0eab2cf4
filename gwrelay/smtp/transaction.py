"""One mail transaction: MAIL, RCPT, DATA, content (RFC 5321 3.3), pipelined when offered.

Gives one Outcome for each recipient, never fewer; never decides about retries, other
hosts or bounces.  Losing the connection is in the outcomes too: what was refused before
stays refused, the rest is deferred, and in doubt once the final dot was sent.

The next envelope may go along with the final dot (RFC 2920 3.1): the reply to the dot still
comes first, and what goes along is nothing but commands, so that no more than the one message
is ever in doubt.
"""

import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from gwrelay.errors import AccountingError, ConnectionLost
from gwrelay.message import outcome
from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply
from gwrelay.smtp.connection import Connection
from gwrelay.smtp.conversion import MAX_CONVERTED_BYTES, to_7bit
from gwrelay.smtp.stuffing import all_on_the_wire, on_the_wire

#: Content goes out in blocks of this size, each with its own timer (RFC 5321 4.5.3.2.5).
BLOCK_BYTES = 64 * 1024

_TOO_LARGE = "message of {} bytes exceeds the {} bytes that {} takes"
_NO_8BIT = "content is not 7-bit clean, cannot be made so, and {} does not offer 8BITMIME"
_NO_UTF8 = "address or header needs SMTPUTF8, which {} does not offer"
_NO_SENDER = Reply(553, "5.1.7", "the sender is no address: it has CR, LF or NUL")
_NO_RECIPIENT = Reply(553, "5.1.3", "this is no address: it has CR, LF or NUL")

#: Sent as part of a command, these would begin another one, or end as nobody knows what.
_ends_command = re.compile("[\r\n\0]").search


class Transaction(NamedTuple):
    """What to send, once: `recipients` are those of `envelope` that belong to this delivery.

    `content` is read at most once, and may have been though send() raises ConnectionLost:
    another try needs it anew.
    """

    envelope: Envelope
    recipients: Sequence[Recipient]
    size_bytes: int
    content: Iterable[bytes]


#: Told when all but the last block of content is gone, with the number of recipients accepted:
#: from here on they may be delivered.  What it returns goes along with the final dot, and must be
#: the next to be sent over the session.
BeforeDot = Callable[[int], Transaction | None]


def _alone(accepted: int) -> None:
    """Nothing goes along with the final dot."""


def send(
    connection: Connection, transaction: Transaction, before_dot: BeforeDot = _alone
) -> list[Outcome]:
    """Outcomes in the order of `transaction.recipients`.

    Raises ConnectionLost only when nothing at all is known yet (lost before the reply to
    MAIL): then the host failed, not the message, and another may be asked at once.
    """
    fitting: Transaction | Reply = transaction
    if connection.sent_ahead is None and not fits(connection, transaction):
        sendable = list(filter(_is_sendable, transaction.recipients))
        if len(sendable) < len(transaction.recipients):
            rest = transaction._replace(recipients=sendable)
            return _send_to_the_sendable(connection, transaction, rest, before_dot)
        fitting = _made_to_fit(connection, transaction)
    if isinstance(fitting, Reply):
        said = _who(outcome.of_ours(outcome.MAIL, fitting), connection)
        return [said] * len(transaction.recipients)
    if connection.needs_rset:
        _reset(connection)
    connection.transactions += 1
    if connection.may_pipeline:
        outcomes = _pipelined(connection, fitting, before_dot)
    else:
        outcomes = _in_lockstep(connection, fitting, before_dot)
    return _complete(outcomes)


def _send_to_the_sendable(
    connection: Connection, transaction: Transaction, rest: Transaction, before_dot: BeforeDot
) -> list[Outcome]:
    """`rest` is `transaction` without the recipients that no RCPT can name: these fail."""
    told = iter(send(connection, rest, before_dot) if rest.recipients else ())
    failed = _who(outcome.of_ours(outcome.RCPT, _NO_RECIPIENT), connection)
    return [next(told) if _is_sendable(r) else failed for r in transaction.recipients]


def _is_sendable(recipient: Recipient) -> bool:
    return not _ends_command("".join(recipient))


def fits(connection: Connection, transaction: Transaction) -> bool:
    """Whether this next hop can take this message as it is."""
    limit = connection.size_limit_bytes
    envelope = transaction.envelope
    return (
        not (limit and transaction.size_bytes > limit)
        and not (envelope.smtputf8 and not connection.offers("smtputf8"))
        and not (envelope.body != "7BIT" and not connection.offers("8bitmime"))
        and _has_sendable_sender(envelope)
        and all(map(_is_sendable, transaction.recipients))
    )


def _has_sendable_sender(envelope: Envelope) -> bool:
    return not _ends_command(envelope.reverse_path + envelope.ret + envelope.envid)


def _made_to_fit(connection: Connection, transaction: Transaction) -> Transaction | Reply:
    """`transaction` as this next hop can take it, or why it cannot, before it is asked."""
    envelope = transaction.envelope
    if not _has_sendable_sender(envelope):
        return _NO_SENDER
    if envelope.smtputf8 and not connection.offers("smtputf8"):
        return Reply(550, "5.6.7", _NO_UTF8.format(connection.exchange))
    if envelope.body != "7BIT" and not connection.offers("8bitmime"):
        converted = None
        if transaction.size_bytes <= MAX_CONVERTED_BYTES:
            converted = to_7bit(transaction.content, _let_others_run)
        if converted is None:
            return Reply(554, "5.6.3", _NO_8BIT.format(connection.exchange))
        transaction = transaction._replace(
            envelope=envelope._replace(body="7BIT"),
            size_bytes=len(converted),
            content=(converted,),
        )
    limit = connection.size_limit_bytes
    if limit and transaction.size_bytes > limit:
        text = _TOO_LARGE.format(transaction.size_bytes, limit, connection.exchange)
        return Reply(552, "5.3.4", text)
    return transaction


def _let_others_run() -> None:
    time.sleep(0)


def _reset(connection: Connection) -> None:
    reply = connection.command(outcome.RSET, b"RSET\r\n")
    if not reply.is_positive:
        connection.spoiled = True
        raise ConnectionLost(outcome.RSET, f"RSET refused: {reply}")
    connection.needs_rset = False


def _mail_command(offered: Container[str], envelope: Envelope, size_bytes: int) -> str:
    """MAIL FROM with the parameters this next hop understands (RFC 1870, 6152, 6531, 3461)."""
    size = f" SIZE={size_bytes}" if "size" in offered else ""
    body = "" if envelope.body == "7BIT" else " BODY=8BITMIME"
    utf8 = " SMTPUTF8" if envelope.smtputf8 else ""
    line = f"MAIL FROM:<{envelope.reverse_path}>{size}{body}{utf8}"
    if "dsn" in offered:
        if envelope.ret:
            line += f" RET={envelope.ret}"
        if envelope.envid:
            line += f" ENVID={envelope.envid}"
    return line + "\r\n"


def _rcpt_command(offered: Container[str], recipient: Recipient) -> str:
    """RCPT TO, as the client wrote the address: smtplib's quoteaddr() would change it."""
    line = f"RCPT TO:<{recipient.address}>"
    if "dsn" in offered:
        if recipient.notify:
            line += f" NOTIFY={recipient.notify}"
        if recipient.orcpt:
            line += f" ORCPT={recipient.orcpt}"
    return line + "\r\n"


def _envelope_commands(connection: Connection, transaction: Transaction) -> bytes:
    """MAIL, every RCPT and DATA, for one write; the replies come in order (RFC 2920 3.1)."""
    offered = connection.extensions
    commands = _mail_command(offered, transaction.envelope, transaction.size_bytes)
    for recipient in transaction.recipients:
        commands += _rcpt_command(offered, recipient)
    return (commands + "DATA\r\n").encode()


def _pipelined(
    connection: Connection, transaction: Transaction, before_dot: BeforeDot
) -> list[Outcome | None]:
    outcomes: list[Outcome | None] = [None] * len(transaction.recipients)
    went_ahead = connection.sent_ahead is not None
    if not went_ahead:
        connection.send(outcome.MAIL, _envelope_commands(connection, transaction))
    elif connection.sent_ahead is not transaction:
        raise AccountingError("another envelope is on its way")
    connection.sent_ahead = None
    mail = connection.read(outcome.MAIL)
    refused = connection.verdict.kind is not None
    connection.needs_rset = not refused
    if refused:
        ends = outcome.ends_transaction(mail)
        if ends and went_ahead:
            # Said to the session after its last message, not to this one.
            connection.close()
            raise ConnectionLost(outcome.MAIL, str(mail))
        # Known from here on: the other end may hang up before it answers the rest.
        _fill(outcomes, _judged(connection, outcome.MAIL, mail))
        if ends:
            return outcomes
    try:
        for n in range(len(outcomes)):
            reply = connection.read(outcome.RCPT, moot=refused)
            if connection.verdict.kind and _ends_at_rcpt(connection, outcomes, n, reply):
                return outcomes
        go_ahead = connection.read(outcome.DATA, moot=None not in outcomes)
        _data(connection, transaction, outcomes, go_ahead, before_dot)
    except ConnectionLost as lost:
        _lose(connection, outcomes, lost)
    return outcomes


def _in_lockstep(
    connection: Connection, transaction: Transaction, before_dot: BeforeDot
) -> list[Outcome | None]:
    """One command, one reply."""
    outcomes: list[Outcome | None] = [None] * len(transaction.recipients)
    offered = connection.extensions
    line = _mail_command(offered, transaction.envelope, transaction.size_bytes)
    mail = connection.command(outcome.MAIL, line.encode())
    if connection.verdict.kind:
        refused = _judged(connection, outcome.MAIL, mail)
        return [refused] * len(outcomes)
    connection.needs_rset = True
    try:
        for n, recipient in enumerate(transaction.recipients):
            line = _rcpt_command(offered, recipient)
            reply = connection.command(outcome.RCPT, line.encode())
            if connection.verdict.kind and _ends_at_rcpt(connection, outcomes, n, reply):
                return outcomes
        if None in outcomes:
            reply = connection.command(outcome.DATA, b"DATA\r\n")
            _data(connection, transaction, outcomes, reply, before_dot)
    except ConnectionLost as lost:
        _lose(connection, outcomes, lost)
    return outcomes


def _ends_at_rcpt(
    connection: Connection, outcomes: list[Outcome | None], n: int, reply: Reply
) -> bool:
    """Recipient `n` is out: its RCPT was not accepted.  → whether that ends the transaction, and
    the session, for all that have no outcome yet.

    When MAIL was refused, that is the reason to report: the RCPTs only fail behind it.
    """
    verdict = _judged(connection, outcome.RCPT, reply)
    if outcomes[n] is None:
        outcomes[n] = verdict
    if not outcome.ends_transaction(reply):
        return False
    _hang_up(connection)
    _fill(outcomes, verdict)
    return True


def _data(
    connection: Connection,
    transaction: Transaction,
    outcomes: list[Outcome | None],
    go_ahead: Reply,
    before_dot: BeforeDot,
) -> None:
    """`outcomes` has None for those whose RCPT was accepted; fills these."""
    accepted = outcomes.count(None)
    if go_ahead.code == 354:
        # All recipients refused, and still a go-ahead: an empty message reaches nobody
        # (RFC 2920 3.1).
        _send_content(connection, transaction.content if accepted else (), accepted, before_dot)
        final = connection.read(outcome.DOT)
        connection.needs_rset = False
        stage = outcome.DOT
    else:
        if connection.has_surplus:
            # One reply too many, maybe long before this one: whose each was, nobody knows.
            outcomes[:] = [None] * len(outcomes)
            connection.note_breach()
            raise ConnectionLost(outcome.DATA, f"more replies than commands, then {go_ahead}")
        final, stage = go_ahead, outcome.DATA
    if accepted:
        _fill(outcomes, _judged(connection, stage, final))
        if not connection.offers("dsn"):
            _note_relayed(transaction, outcomes)


def _note_relayed(transaction: Transaction, outcomes: list[Outcome | None]) -> None:
    """A next hop that was not told of NOTIFY=SUCCESS will not report it (RFC 3461 5.2.2)."""
    for n, recipient in enumerate(transaction.recipients):
        told = outcomes[n]
        if "SUCCESS" in recipient.notify and told is not None and told.kind is Kind.DELIVERED:
            outcomes[n] = told._replace(relayed=True)


def _send_content(
    connection: Connection, pieces: Iterable[bytes], accepted: int, before_dot: BeforeDot
) -> None:
    """Content and final dot.  A send that fails did not send the dot: nothing is in doubt."""
    sent_bytes, began = 0, time.monotonic()
    try:
        for block, is_last in _blocks(pieces):
            ahead = before_dot(accepted) if is_last and accepted else None
            # What was said meanwhile must not count as the answer to the dot.
            if not connection.is_quiet():
                raise ConnectionLost(outcome.CONTENT, "answered or closed before the final dot")
            stage = outcome.CONTENT
            if ahead is not None:
                # Unless all of it is sent, nobody knows whether the dot was: hence its stage.
                stage = outcome.DOT
                connection.sent_ahead = ahead
                block += _envelope_commands(connection, ahead)
            connection.send_block(stage, block, began, sent_bytes)
            sent_bytes += len(block)
    except BaseException:
        # Half a content is out: any command would be read as more of it.
        connection.close()
        raise


def _blocks(pieces: Iterable[bytes]) -> Iterable[tuple[bytes, bool]]:
    """Each with whether it is the last."""
    if type(pieces) is tuple and len(pieces) == 1 and len(pieces[0]) < BLOCK_BYTES // 2:
        # Most mail, and without five turns of two generators: stuffed it is a block at the most.
        return ((all_on_the_wire(pieces[0]), True),)
    return _cut(pieces)


def _cut(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for octets, is_last in on_the_wire(pieces):
        end = len(octets)
        for start in range(0, end, BLOCK_BYTES):
            # Slicing the whole of a bytes object does not copy it.
            yield octets[start : start + BLOCK_BYTES], is_last and start + BLOCK_BYTES >= end


def _lose(connection: Connection, outcomes: list[Outcome | None], lost: ConnectionLost) -> None:
    _hang_up(connection)
    _fill(outcomes, outcome.of_loss(lost, connection.exchange, connection.address))


def _hang_up(connection: Connection) -> None:
    """Not even QUIT: the DATA that was pipelined behind what broke may have been taken."""
    connection.spoiled = True
    connection.close()


def _fill(outcomes: list[Outcome | None], verdict: Outcome) -> None:
    for n, known in enumerate(outcomes):
        if known is None:
            outcomes[n] = verdict


def _judged(connection: Connection, stage: str, reply: Reply) -> Outcome:
    """The outcome that `reply`, the last one read, means for those it speaks about."""
    kind = connection.verdict.kind or Kind.DEFERRED
    who = connection.exchange, connection.address
    # A NamedTuple from all its fields: calling the class is Python of its own.
    return tuple.__new__(Outcome, (kind, stage, reply, False, True, *who, "", "", False, False))


def _who(verdict: Outcome, connection: Connection) -> Outcome:
    return verdict._replace(exchange=connection.exchange, address=connection.address)


def _complete(outcomes: list[Outcome | None]) -> list[Outcome]:
    if None in outcomes:
        raise AccountingError("a recipient has no outcome")
    return outcomes  # type: ignore[return-value]
