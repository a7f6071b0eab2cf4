"""The message we send about recipients that failed, or were relayed to a host that sends none.
Pure; its form is dsn.py's business."""

from collections.abc import Callable

from gwrelay.message import dsn
from gwrelay.message.envelope import Envelope, Message, Recipient
from gwrelay.queue.settlement import Settlement
from gwrelay.queue.store import NewMessage, first_state


def report(
    original: Message,
    settlement: Settlement,
    *,
    hostname: str,
    next_id: Callable[[], int],
    now: float,
    header_section: Callable[[int], bytes],
) -> NewMessage | None:
    """The report about `original` that is owed for this settlement; None when it is wanted for
    none of those concerned.  `header_section` gives that of a message's content."""
    recipients = original.envelope.recipients
    failed = {n: o for n, o in settlement.failed.items() if _wants_failures(recipients[n])}
    failures = [
        dsn.Failure(recipients[n], told, n in settlement.expired)
        for n, told in sorted({**failed, **settlement.relayed}.items())
    ]
    if not failures:
        return None
    return _as_message(
        dsn.Report(
            hostname,
            next_id(),
            now,
            original.id,
            original.arrived_at,
            original.envelope,
            failures,
            header_section(original.id),
        )
    )


def _as_message(report: dsn.Report) -> NewMessage:
    content = dsn.build(report)
    needs_8bit = not content.isascii()
    envelope = Envelope(
        "",
        (Recipient(report.envelope.reverse_path),),
        "8BITMIME" if needs_8bit else "7BIT",
        dsn.needs_smtputf8(report),
    )
    message = Message(report.report_id, report.now, len(content), envelope)
    return NewMessage(message, first_state(message), content)


def _wants_failures(recipient: Recipient) -> bool:
    """RFC 3461 4.1: without NOTIFY, failures are reported."""
    return not recipient.notify or "FAILURE" in recipient.notify
