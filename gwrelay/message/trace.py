"""The Received field that every relay puts on top (RFC 5321 4.4).

What the client chose (its HELO name, an address) is written only as far as it cannot end
the field or open another: everything else becomes "?".
"""

import ipaddress
import re
import time
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: Octets of a HELO name worth keeping: a domain has no more (RFC 5321 4.5.3.1.2).
_MAX_NAME = 255

# No parentheses, semicolon, quotes or backslash: they are grammar in this field.
_UNFIT_FOR_A_NAME = re.compile(r"[^A-Za-z0-9._:\[\]-]")


def received(
    helo: str,
    client_address: str,
    hostname: str,
    protocol: str,
    message_name: str,
    arrived_at: float,
    recipient: str | None = None,
    protection: str = "",
) -> bytes:
    """The field, folded, with its final CRLF, ready to stand before the content.

    `client_address` is textual, v4 or v6; `protocol` the word of RFC 3848 or 6531;
    `arrived_at` Unix seconds; `protection` the version of TLS and the cipher, as TlsSocket says
    them, "" in the clear.  `recipient` only when it is the only one: naming several
    would tell each of the others (RFC 5321 7.6).  It is left out when it does not fit, as
    UTF-8 does not into a message that was not sent as UTF8SMTP.
    """
    start = _start(helo, client_address, hostname, protocol, protection)
    known_for = ""
    if recipient and _fits(recipient, protocol):
        known_for = f"\r\n\tfor <{recipient}>"
    date = _date(int(arrived_at))
    return f"{start}{message_name}{known_for};\r\n\t{date}\r\n".encode()


def _fits(recipient: str, protocol: str) -> bool:
    return recipient.isprintable() and (recipient.isascii() or protocol.startswith("UTF8"))


@lru_cache(maxsize=1024)
def _start(helo: str, client_address: str, hostname: str, protocol: str, protection: str) -> str:
    """What every message of one session shares."""
    name = _UNFIT_FOR_A_NAME.sub("?", helo[:_MAX_NAME]) or "?"
    seen_at = f" ([{_literal(client_address)}])" if client_address else ""
    under = ""
    if protection:
        version, _, cipher = protection.partition(" ")
        under = f"\r\n\t(using {version} with cipher {cipher})"
    return f"Received: from {name}{seen_at}{under}\r\n\tby {hostname} with {protocol} id "


def _literal(client_address: str) -> str:
    """The address as in RFC 5321 4.1.3, a v4 address in v6 clothes as the v4 it is."""
    try:
        address = ipaddress.ip_address(client_address.partition("%")[0])
    except ValueError:
        return _UNFIT_FOR_A_NAME.sub("?", client_address[:_MAX_NAME])
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or f"IPv6:{address}")
    return str(address)


@lru_cache(maxsize=64)
def _date(second: int) -> str:
    """RFC 5322 3.3, in UTC.  Not strftime(): that speaks the process's language."""
    year, month, day, hour, minute, sec, weekday, *_ = time.gmtime(second)
    return (
        f"{_DAYS[weekday]}, {day:02d} {_MONTHS[month - 1]} {year} "
        f"{hour:02d}:{minute:02d}:{sec:02d} +0000"
    )
