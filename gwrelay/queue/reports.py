"""The message we send about recipients that failed, wait too long, or were relayed to a host that
sends none.  Pure; its form is dsn.py's business."""

from collections.abc import Callable, Mapping

from gwrelay.message import dsn
from gwrelay.message.envelope import Envelope, Message, Recipient
from gwrelay.queue.delays import Delay
from gwrelay.queue.settlement import Settlement
from gwrelay.queue.store import NewMessage, first_state


def report(
    original: Message,
    settlement: Settlement,
    delayed: Mapping[int, Delay],
    *,
    retry_until: float,
    hostname: str,
    next_id: Callable[[], int],
    now: float,
    header_section: Callable[[int], bytes],
) -> NewMessage | None:
    """The report about `original` that is owed for this settlement, and about the recipients in
    `delayed`, which are tried until `retry_until`; None when it is wanted for none of those
    concerned.  `header_section` gives that of a message's content."""
    recipients = original.envelope.recipients
    failed = {n: o for n, o in settlement.failed.items() if _wants_failures(recipients[n])}
    about = {
        n: dsn.Failure(recipients[n], told, n in settlement.expired)
        for n, told in (failed | dict(settlement.relayed)).items()
    }
    for n, delay in delayed.items():
        about[n] = dsn.Failure(recipients[n], delay.outcome, False, delay.tried)
    if not about:
        return None
    failures = [about[n] for n in sorted(about)]
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
            retry_until,
        )
    )


def wanted(original: Message, late: Mapping[int, Delay]) -> dict[int, Delay]:
    """Those of whom the sender wants to hear that they wait."""
    recipients = original.envelope.recipients
    return {n: delay for n, delay in late.items() if _wants_delays(recipients[n])}


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


def _wants_delays(recipient: Recipient) -> bool:
    """RFC 3461 5.2.5: without NOTIFY that is for us to say."""
    return not recipient.notify or "DELAY" in recipient.notify
