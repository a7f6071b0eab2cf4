"""What a command line says: its bytes as values (RFC 5321 4.1.1, 1870, 3461, 6152, 6531).

No state and no policy: whether a command is welcome now, the session knows.
"""

import re
from typing import NamedTuple

from gwrelay.errors import GatewayError
from gwrelay.message.address import (
    ASCII_MAILBOX,
    MAX_MAILBOX_BYTES,
    parse_forward_path,
    parse_reverse_path,
)
from gwrelay.message.envelope import Recipient
from gwrelay.message.reply import Reply
from gwrelay.smtp import answers

#: RFC 5321 4.5.3.1.4, and for MAIL and RCPT with room for what their extensions add: a
#: longest path with a longest ORCPT and NOTIFY comes to about 800.  Both count the CRLF.
MAX_LINE_BYTES = 512
MAX_ENVELOPE_LINE_BYTES = 1024
#: A line that goes on beyond this (without CRLF) is not SMTP, and costs the connection.
MAX_SANE_LINE_BYTES = 2048

#: SMTP knows them, this server does not offer them.
NOT_OFFERED_VERBS = frozenset(
    b"ATRN AUTH BDAT BURL ETRN EXPN SAML SEND SOML TURN XCLIENT XFORWARD".split()
)
#: Other protocols begin like this; a POST can have a whole SMTP dialogue inside.
_FOREIGN_VERBS = frozenset(
    b"CONNECT DELETE GET HEAD OPTIONS PATCH POST PRI PROXY PUT TRACE".split()
)


#: A NamedTuple from all its fields.  Calling the class is Python of its own.
_new = tuple.__new__


class CommandError(GatewayError):
    """A command that cannot be taken; `reply` is what the client is to hear."""

    def __init__(self, code: int, status: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, status, text)


class MailCommand(NamedTuple):
    """MAIL FROM with its parameters; `size_bytes` is 0 when the client did not say."""

    reverse_path: str
    size_bytes: int = 0
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""


# An ASCII path ends at the first > outside quotes; a space before < is common and harmless.
_PATH = r' *+<((?:[^"<>]|"(?:[^"\\]|\\.)*+")*+)>(?: +(.*))?'
_FROM = re.compile(rf"FROM:{_PATH}".encode(), re.IGNORECASE | re.DOTALL)
_TO = re.compile(rf"TO:{_PATH}".encode(), re.IGNORECASE | re.DOTALL)

# Nearly every MAIL and RCPT looks like this, and one match is all it costs.  What does not
# goes the long way, which would say the same of those that do.  Address literals go the long
# way too, hence the look back for their bracket.
_PLAIN_FROM = re.compile(
    rf"(?:FROM|from):<((?:{ASCII_MAILBOX}(?<!\]))?)>(?: (?:SIZE|size)=([0-9]{{1,20}}))?".encode()
)
_PLAIN_TO = re.compile(rf"(?:TO|to):<({ASCII_MAILBOX}(?<!\]))>".encode())
_PLAIN_ENVELOPE = re.compile(
    b"MAIL " + _PLAIN_FROM.pattern + rb"\r\nRCPT " + _PLAIN_TO.pattern + rb"\r\nDATA\r\n"
)

# RFC 3461 4: xtext, whose decoded form must be printable.
_XTEXT = r"(?:[!-*,-<>-~]|\+(?:2[0-9A-F]|[3-6][0-9A-F]|7[0-9A-E]))"
_WHEN = "(?:SUCCESS|FAILURE|DELAY)"

#: The parameters we know, and what their values must look like; "" takes none.
#: BINARYMIME is not offered (RFC 3030), AUTH= comes with AUTH (RFC 4954).
_MAIL_PARAMETERS = {
    b"SIZE": "[0-9]{1,20}",
    b"BODY": "(?i:7BIT|8BITMIME)",
    b"SMTPUTF8": "",
    b"RET": "(?i:FULL|HDRS)",
    b"ENVID": f"{_XTEXT}{{1,100}}",
}
# utf-8 addresses stand in ORCPT either in RFC 6533's own encoding, which looks like xtext,
# or plainly; 500 characters are all RFC 3461 4.2 allows.
_RCPT_PARAMETERS = {
    b"NOTIFY": f"(?i:NEVER|{_WHEN}(?:,{_WHEN})*)",
    b"ORCPT": r"(?s:(?=.{1,500}\Z))"
    rf"(?:(?i:utf-8);(?:{_XTEXT}|[\x80-\xff])+|[A-Za-z0-9-]+;{_XTEXT}+)",
}
_KEYWORD = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*")


def _compiled(patterns: dict[bytes, str]) -> dict[bytes, re.Pattern[bytes]]:
    return {keyword: re.compile(p.encode("latin-1")) for keyword, p in patterns.items()}


_MAIL_VALUES = _compiled(_MAIL_PARAMETERS)
_RCPT_VALUES = _compiled(_RCPT_PARAMETERS)


def line_fault(line: bytes, verb: bytes) -> Reply | None:
    """What is wrong with a line as a line, without its CRLF; `verb` in upper case."""
    if b"\n" in line or b"\r" in line:
        return answers.BARE_NEWLINE
    allowed = MAX_ENVELOPE_LINE_BYTES if verb in (b"MAIL", b"RCPT") else MAX_LINE_BYTES
    return answers.LINE_TOO_LONG if len(line) + 2 > allowed else None


def is_foreign(verb: bytes) -> bool:
    """Another protocol is spoken; `verb` in upper case."""
    return verb in _FOREIGN_VERBS or verb.startswith(b"SSH-") or is_binary(verb[:1])


def is_binary(first: bytes) -> bool:
    """No line of SMTP begins with such a byte: a control character, or beyond ASCII."""
    return first not in b"\r\n\t" and not b" " <= first <= b"~"


def parse_hello(argument: bytes) -> str:
    """The name after EHLO or HELO: printable ASCII without spaces, whatever it claims.

    A name that is no domain is taken (RFC 5321 4.1.4 forbids refusing mail for it); what
    is written of it into the Received field is trace.py's business.
    """
    name = argument.decode("ascii", "replace")
    if not name or not name.isascii() or not name.isprintable() or " " in name:
        raise CommandError(501, "5.5.4", "EHLO and HELO need your host name")
    return name


def parse_mail(argument: bytes) -> MailCommand:
    """What follows "MAIL ".  Raises CommandError or AddressError (501, 553, 555)."""
    plain = _PLAIN_FROM.fullmatch(argument)
    if plain is not None and len(plain[1]) <= MAX_MAILBOX_BYTES:
        return MailCommand(plain[1].decode(), int(plain[2] or 0))
    matched = _FROM.fullmatch(argument)
    if matched is None:
        raise CommandError(501, "5.5.4", "syntax: MAIL FROM:<address> [parameters]")
    given = _parameters(matched[2] or b"", _MAIL_VALUES)
    smtputf8 = "SMTPUTF8" in given
    return MailCommand(
        parse_reverse_path(matched[1], smtputf8=smtputf8),
        int(given.get("SIZE", 0)),
        smtputf8,
        given.get("RET", "").upper(),
        given.get("ENVID", ""),
    )


def parse_rcpt(argument: bytes, *, smtputf8: bool, local_domain: str) -> Recipient:
    """What follows "RCPT ".  `local_domain` is whose postmaster <Postmaster> is.

    Raises CommandError or AddressError (501, 553, 555).
    """
    plain = _PLAIN_TO.fullmatch(argument)
    if plain is not None and len(plain[1]) <= MAX_MAILBOX_BYTES:
        return Recipient(plain[1].decode())
    matched = _TO.fullmatch(argument)
    if matched is None:
        raise CommandError(501, "5.5.4", "syntax: RCPT TO:<address> [parameters]")
    given = _parameters(matched[2] or b"", _RCPT_VALUES)
    orcpt = given.get("ORCPT", "")
    if not smtputf8 and not orcpt.isascii():
        raise CommandError(501, "5.5.4", "ORCPT needs SMTPUTF8 for this")
    return Recipient(
        parse_forward_path(matched[1], smtputf8=smtputf8, local_domain=local_domain),
        given.get("NOTIFY", "").upper(),
        orcpt,
    )


def parse_plain_envelope(lines: bytes) -> tuple[MailCommand, Recipient] | None:
    """MAIL, one RCPT and DATA, sent together by a client that pipelines, if they are just these
    and plain; None for all else, which may be good as well."""
    if not lines.endswith(b"\r\nDATA\r\n"):
        return None
    plain = _PLAIN_ENVELOPE.fullmatch(lines)
    if plain is None:
        return None
    sender, size, recipient = plain.groups()
    if len(sender) > MAX_MAILBOX_BYTES or len(recipient) > MAX_MAILBOX_BYTES:
        return None
    return (
        _new(MailCommand, (sender.decode(), int(size or 0), False, "", "")),
        _new(Recipient, (recipient.decode(), "", "")),
    )


def _parameters(text: bytes, known: dict[bytes, re.Pattern[bytes]]) -> dict[str, str]:
    """KEYWORD or KEYWORD=value, separated by spaces (RFC 5321 4.1.2 esmtp-param)."""
    given: dict[str, str] = {}
    for parameter in text.split(b" "):
        if not parameter:
            continue
        keyword, equals, value = parameter.partition(b"=")
        if not _KEYWORD.fullmatch(keyword):
            raise CommandError(501, "5.5.4", "bad parameter syntax")
        name = keyword.upper()
        if name not in known:
            raise CommandError(555, "5.5.4", f"parameter {name.decode()[:40]} is not known here")
        if name.decode() in given:
            raise CommandError(501, "5.5.4", f"parameter {name.decode()} given twice")
        if not known[name].fullmatch(value) or bool(equals) != bool(value):
            raise CommandError(501, "5.5.4", f"bad value for {name.decode()}")
        given[name.decode()] = _text(value)
    return given


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CommandError(501, "5.5.4", "parameter value is not UTF-8") from None
