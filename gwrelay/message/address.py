"""Mailboxes as they stand between < and > in MAIL and RCPT (RFC 5321 4.1.2, RFC 6531 3.3).

An address is accepted and passed on byte for byte, or refused: never repaired, because a
repaired address is somebody else's.  Only a source route is taken off, as RFC 5321
appendix C says.  The local part is opaque: %, ! and quoted anything mean nothing here, and
the right-hand domain alone decides where the mail goes.

501 says "this is no address", 553 "it is one, but none that can be carried here".
"""

import ipaddress
import re
from functools import lru_cache

import idna

from gwrelay.errors import GatewayError
from gwrelay.message.reply import Reply

#: Octets of a mailbox without its < and > (RFC 5321 4.5.3.1.3).  The 64 of a local part
#: are not enforced: real bounce addresses (VERP) are longer, and 4.5.3.1 lets us take them.
MAX_MAILBOX_BYTES = 254

#: RFC 3463: the status of a bad address tells who it belonged to.
_SENDER = "5.1.7"
_RECIPIENT = "5.1.3"


class AddressError(GatewayError):
    """An address that cannot be taken; `reply` is what the client is to hear."""

    def __init__(self, code: int, status: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, status, text)


def _mailbox_grammar(beyond_ascii: str) -> tuple[str, str]:
    """The patterns of a mailbox and of a source route, as regular expressions.

    `beyond_ascii` is added to the characters of atoms, quoted strings and labels.  All
    repetition is possessive, so that no input makes the match try twice.  Underscores in
    domains are no host names, but machines are called so and their mail has such senders.
    """
    atom = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{beyond_ascii}-]++"
    label = rf"(?![-.])[A-Za-z0-9_{beyond_ascii}-]{{1,63}}+(?<!-)"
    domain = rf"{label}(?:\.{label})*+\.?"
    quoted = rf'"(?:[ !#-\[\]-~{beyond_ascii}]|\\[ -~])*+"'
    mailbox = rf"(?:{atom}(?:\.{atom})*+|{quoted})@(?:{domain}|\[[A-Za-z0-9:.]++\])"
    return mailbox, rf"@{domain}(?:,@{domain})*+:"


#: A mailbox in ASCII, as a pattern over str.
ASCII_MAILBOX, _ASCII_ROUTE = _mailbox_grammar("")
# C1 controls and the two Unicode line ends are UTF-8, but nothing any reader should meet.
_UTF8_MAILBOX, _UTF8_ROUTE = _mailbox_grammar("\u00a0-\u2027\u202a-\U0010ffff")

_ASCII_PATH = re.compile(rf"(?:{_ASCII_ROUTE})?+({ASCII_MAILBOX})")
_UTF8_PATH = re.compile(rf"(?:{_UTF8_ROUTE})?+({_UTF8_MAILBOX})")


def parse_reverse_path(path: bytes, *, smtputf8: bool = False) -> str:
    """The argument of MAIL FROM without < and >; "" is the null reverse-path.

    Raises AddressError (501 or 553, status 5.1.7 or 5.6.7).
    """
    return _mailbox(path, smtputf8, _SENDER) if path else ""


def parse_forward_path(path: bytes, *, smtputf8: bool = False, local_domain: str = "") -> str:
    """The argument of RCPT TO without < and >.

    "Postmaster" alone must be accepted (RFC 5321 4.5.1); it becomes the postmaster of
    `local_domain`.  An address literal (RFC 5321 4.1.3) is as good as a domain; which
    addresses mail is not carried to is decided where it is routed.
    Raises AddressError (501 or 553, status 5.1.3 or 5.6.7).
    """
    if local_domain and path.lower() == b"postmaster":
        return f"{path.decode()}@{local_domain}"
    return _mailbox(path, smtputf8, _RECIPIENT)


def _mailbox(path: bytes, smtputf8: bool, status: str) -> str:
    try:
        text = path.decode("utf-8" if smtputf8 else "ascii")
    except UnicodeDecodeError:
        if smtputf8:
            raise AddressError(501, status, "address is not UTF-8") from None
        raise AddressError(553, "5.6.7", "address needs SMTPUTF8") from None
    matched = (_ASCII_PATH if text.isascii() else _UTF8_PATH).fullmatch(text)
    if matched is None:
        raise AddressError(501, status, "bad address syntax")
    address = matched[1]
    if len(address.encode()) > MAX_MAILBOX_BYTES:
        raise AddressError(501, status, "address too long")
    _check_domain(address.rpartition("@")[2], status)
    return address


def _check_domain(domain: str, status: str) -> None:
    if domain.startswith("["):
        if not _is_address_literal(domain[1:-1]):
            raise AddressError(501, status, "bad address literal")
    elif not domain.isascii():
        try:
            ascii_domain(domain)
        except idna.IDNAError:
            raise AddressError(553, status, "no such international domain name") from None


def _is_address_literal(literal: str) -> bool:
    try:
        if literal[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(literal[5:])
        else:
            ipaddress.IPv4Address(literal)
    except ValueError:
        return False
    return True


def domain_of(address: str) -> str:
    """The domain that routes `address`: lower case, A-labels, without a trailing dot.

    "" for the null reverse-path.  An address literal comes back in its brackets.  Raises
    idna.IDNAError for a domain that parse_forward_path() would not have let in.
    """
    domain = address.rpartition("@")[2]
    return (domain.lower() if domain.isascii() else ascii_domain(domain)).rstrip(".")


@lru_cache(maxsize=4096)
def ascii_domain(domain: str) -> str:
    """`domain` in A-labels, lower case (RFC 5891).  Raises idna.IDNAError.

    Nothing but case is mapped: what UTS 46 would drop or replace on top of that makes one
    domain out of what somebody may have meant, and read, as another.
    """
    lower = domain.lower()
    return lower if domain.isascii() else idna.encode(lower).decode("ascii")
