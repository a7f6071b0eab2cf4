"""The one form in which a domain or a host is looked up and remembered.  Pure."""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna

from gwrelay.mx.failures import NoAddress, NoSuchDomain

#: For what needs no name server and hence never gets old: as long as anything is remembered.
FOREVER_S = float("inf")

#: Letters, digits, hyphens (RFC 5321 4.1.2), and the underscore which people do use.
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


def normal_domain(domain: str) -> str:
    """The form a domain is looked up and remembered in: lower case, A-labels, no final dot.

    Address literals come back lower case.  Raises NoSuchDomain for what no name server could
    know (RFC 5321 4.1.2, RFC 5891).
    """
    name = domain.lower().removesuffix(".")
    if not name.isascii():
        name = _a_labels(name)
    if _DOMAIN.fullmatch(name) is None and not (name.startswith("[") and name.endswith("]")):
        raise NoSuchDomain(domain, FOREVER_S, "is not a valid domain name")
    return name


def normal_host(name: str) -> str:
    """normal_domain() for a smart host, which may also be an IP address.

    Raises NoAddress, deferring: that the operator wrote nonsense is not the recipients' fault.
    """
    address = literal_address(name)
    if address is not None:
        return address
    try:
        return normal_domain(name)
    except NoSuchDomain:
        raise NoAddress(name, FOREVER_S, "no valid smart host name", defers=True) from None


@lru_cache(maxsize=4096)
def _a_labels(name: str) -> str:
    try:
        return idna.encode(name, uts46=True).decode("ascii").lower()
    except idna.IDNAError as error:
        raise NoSuchDomain(name, FOREVER_S, "is not a valid domain name") from error


def literal_address(name: str) -> str | None:
    """The address, in its usual form, that `name` is, bare or as an address literal; or None.

    Zones (fe80::1%eth0) mean nothing to another host and are not taken.
    """
    text = name.lower().removeprefix("[").removesuffix("]").removeprefix("ipv6:")
    if "%" in text:
        return None
    try:
        return str(IPv6Address(text) if ":" in text else IPv4Address(text))
    except AddressValueError:
        return None
