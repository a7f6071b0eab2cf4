"""What became of recipients → the report their sender gets (RFC 3464, RFC 3461 6, RFC 6533).

Pure.

Who is owed a report, and when, is decided elsewhere (queue/settlement.py).  What a next
hop said is hostile text: it goes in as printable ASCII, on one line, cut to a length.
"""

import re
import textwrap
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from typing import NamedTuple

from gwrelay.message.envelope import Envelope, Recipient, message_name
from gwrelay.message.outcome import Kind, Outcome

#: Bytes of the original's header section that are returned (Postfix returns as much).
HEADERS_MAX_BYTES = 50_000
_DIAGNOSTIC_MAX = 500

#: What a report says of a recipient (RFC 3464 2.3.3): the gravest first.
FAILED, DELAYED, RELAYED = "failed", "delayed", "relayed"

_SUBJECTS = {
    FAILED: "Undelivered mail returned to sender",
    DELAYED: "Mail delayed; nothing need be done",
    RELAYED: "Mail relayed",
}
_WORDS = {
    FAILED: (
        "Your message could not be delivered to the recipients below. It will not be",
        "tried again. The technical reasons and your message's header are attached.",
    ),
    DELAYED: (
        "Your message has not been delivered yet to the recipients below. This is only a",
        "warning: nothing need be done, least of all send it again. It will be tried until",
        "{until}. Your message's header is attached.",
    ),
    RELAYED: (
        "Your message was handed over for the recipients below to a server that does not",
        "report deliveries. It may have arrived; no further report will come.",
    ),
}

_NOT_ASCII = re.compile(rb"[^\x00-\x7f]")
_UNPRINTABLE = re.compile(r"[^ -~]+")
#: What utf-8-addr-xtext does not have as it is (RFC 6533 3, QCHAR).
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")
_XTEXT_ESCAPE = re.compile(r"\+([0-9A-F]{2})")


class Failure(NamedTuple):
    """A recipient that failed; or, with a delivered `outcome`, one that was relayed to a next
    hop from which no report is to be expected; or, with a deferred one, one that waits still."""

    recipient: Recipient
    outcome: Outcome
    #: It never said no: it was put off until its lifetime was over.
    expired: bool
    #: In the attempt that has just ended.  Else nobody knows when its last one was.
    tried: bool = True

    @property
    def action(self) -> str:
        """RFC 3464 2.3.3."""
        if self.outcome.kind is Kind.DELIVERED:
            return RELAYED
        return DELAYED if self.outcome.kind is Kind.DEFERRED and not self.expired else FAILED


class Report(NamedTuple):
    """What a report is made of.  Times are Unix seconds, ids are message ids."""

    hostname: str
    report_id: int
    now: float
    original_id: int
    arrived_at: float
    envelope: Envelope
    failures: Sequence[Failure]
    #: The original's header section, see `header_section`.
    headers: bytes
    #: When those that wait still will be given up.
    retry_until: float = 0.0


def build(report: Report) -> bytes:
    """The report as content: canonical CRLF lines, 7-bit unless an address is not.

    Written out rather than built with the email package, whose generator refuses 8-bit
    text inside message/* parts, the very parts RFC 6533 defines.
    """
    name = message_name(report.report_id)
    # The id is random enough not to occur in the original's header by chance.
    boundary = f"{name}/{report.hostname}"
    international = needs_smtputf8(report)
    status = "message/global-delivery-status" if international else "message/delivery-status"
    headers = "message/global-headers" if international else "text/rfc822-headers"
    parts = (
        (
            f"text/plain; charset={'utf-8' if international else 'us-ascii'}",
            _for_people(report, international),
        ),
        (status, _status(report, international)),
    )
    wire = [_head(report, name, boundary)]
    wire += [_part(boundary, kind, text.encode()) for kind, text in parts]
    # Only the international form may carry 8-bit bytes: a report must reach a sender whose
    # server knows no 8BITMIME, too.
    original = report.headers if international else _NOT_ASCII.sub(b"?", report.headers)
    wire.append(_part(boundary, headers, original))
    wire.append(f"--{boundary}--\r\n".encode())
    return b"".join(wire)


def _head(report: Report, name: str, boundary: str) -> bytes:
    fields = (
        ("From", f"Mail Delivery System <MAILER-DAEMON@{report.hostname}>"),
        ("To", f"<{report.envelope.reverse_path}>"),
        ("Subject", _subject(report)),
        ("Date", formatdate(report.now)),
        ("Message-ID", f"<{name}@{report.hostname}>"),
        # RFC 3834 5: no vacation program shall answer this.
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
        (
            "Content-Type",
            f'multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
        ),
    )
    return f"{_block(fields)}\r\n".encode()


def needs_smtputf8(report: Report) -> bool:
    """Only when whom it goes to cannot be written in ASCII.  Others need not have it, nor their
    servers: for these every address is written in ASCII (RFC 6533 3)."""
    return not report.envelope.reverse_path.isascii()


def _written(address: str, international: bool) -> str:
    """As a report of that kind has it: RFC 6533's utf-8-addr-xtext where it must be ASCII."""
    if international or address.isascii():
        return address
    return _NOT_QCHAR.sub(lambda found: f"\\x{{{ord(found[0]):X}}}", address)


def header_section(beginning: bytes) -> bytes:
    """The header of a content whose `beginning` is given, whole lines of it, bounded."""
    if beginning.startswith(b"\r\n"):
        return b""
    end = beginning.find(b"\r\n\r\n")
    headers = beginning if end < 0 else beginning[: end + 2]
    whole, newline, _ = headers[:HEADERS_MAX_BYTES].rpartition(b"\r\n")
    return whole + newline


def _for_people(report: Report, international: bool) -> str:
    lines = [f"This is the mail system at {report.hostname}.", ""]
    until = formatdate(report.retry_until)
    for action, words in _WORDS.items():
        about = [failure for failure in report.failures if failure.action == action]
        if about:
            lines += [*(line.format(until=until) for line in words), ""]
        for failure in about:
            address = _written(failure.recipient.address, international)
            lines += [_folded(f"<{address}>: {_why(failure)}", "    "), ""]
    return "\r\n".join(lines)


def _subject(report: Report) -> str:
    """That of the gravest there is to tell."""
    actions = {failure.action for failure in report.failures}
    return next(subject for action, subject in _SUBJECTS.items() if action in actions)


def _why(failure: Failure) -> str:
    said = printable(str(failure.outcome.reply))
    if failure.expired:
        return f"could not be delivered in time; the last attempt ended with: {said}"
    exchange = printable(failure.outcome.exchange)
    if failure.outcome.in_doubt:
        return f"may have been delivered, for {exchange} did not answer in the end: {said}"
    if failure.outcome.heard:
        return f"{exchange} said: {said}"
    return f"{exchange}: {said}" if exchange and failure.action == DELAYED else said


def _status(report: Report, international: bool) -> str:
    """The fields of RFC 3464 2.2 and 2.3, one block for the message, one a recipient."""
    about = [("Reporting-MTA", f"dns; {report.hostname}")]
    if report.envelope.envid:
        about.append(("Original-Envelope-Id", printable(decode_xtext(report.envelope.envid))))
    about.append(("X-Gwrelay-Id", message_name(report.original_id)))
    about.append(("Arrival-Date", formatdate(report.arrived_at)))
    for_each = (_recipient_fields(one, report, international) for one in report.failures)
    blocks = [about, *for_each]
    return "\r\n".join(map(_block, blocks))


def _recipient_fields(
    failure: Failure, report: Report, international: bool
) -> list[tuple[str, str]]:
    recipient, told = failure.recipient, failure.outcome
    fields = []
    if recipient.orcpt:
        kind, _, address = recipient.orcpt.partition(";")
        fields.append(("Original-Recipient", f"{kind};{printable(decode_xtext(address))}"))
    address_type = "rfc822" if recipient.address.isascii() else "utf-8"
    address = _written(recipient.address, international)
    fields.append(("Final-Recipient", f"{address_type}; {address}"))
    fields.append(("Action", failure.action))
    fields.append(("Status", _status_code(failure)))
    if told.heard and told.exchange:
        fields.append(("Remote-MTA", f"dns; {printable(told.exchange)}"))
    source = "smtp" if told.heard else "x-gwrelay"
    fields.append(("Diagnostic-Code", _folded(f"{source}; {printable(str(told.reply))}")))
    if failure.tried:
        fields.append(("Last-Attempt-Date", formatdate(report.now)))
    if failure.action == DELAYED:
        fields.append(("Will-Retry-Until", formatdate(report.retry_until)))
    return fields


def _status_code(failure: Failure) -> str:
    status = failure.outcome.reply.status
    if failure.action == RELAYED:
        return "2.1.9"  # RFC 3463 3.2: relayed to a mailer without DSN
    if failure.action == DELAYED:
        # A 5xx that is no verdict on the mail, as of a host that will not have us, defers it.
        return f"4{status[1:]}" if status else "4.0.0"
    return "4.4.7" if failure.expired else status or "5.0.0"


def _block(fields: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in fields)


def _folded(text: str, indent: str = " ") -> str:
    """`text` in lines of some 75 characters, as far as it has spaces to break at."""
    return "\r\n".join(
        textwrap.wrap(
            text, 75, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    )


def _part(boundary: str, content_type: str, octets: bytes) -> bytes:
    encoding = "7bit" if octets.isascii() else "8bit"
    head = (
        f"--{boundary}\r\nContent-Type: {content_type}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    )
    return head.encode() + octets + b"\r\n"


def printable(text: str) -> str:
    """Printable ASCII on one line, with everything else as one "?" or space."""
    line = _UNPRINTABLE.sub("?", text.replace("\n", " "))
    return line if len(line) <= _DIAGNOSTIC_MAX else line[: _DIAGNOSTIC_MAX - 3] + "..."


def decode_xtext(text: str) -> str:
    """RFC 3461 4: "+2B" is "+"."""
    return _XTEXT_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
