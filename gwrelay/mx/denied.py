"""Addresses and names that mail must not be carried to, whatever the DNS says.

Without such a list anybody who controls a zone makes us connect to our own inner services.
Pure: networks and patterns in, yes or no out.
"""

from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

#: Loopback, unspecified ("this host"), link-local, multicast.  Private ranges are not among
#: them: gateways inside a company do deliver there.
DEFAULT_NETWORKS = tuple(
    ip_network(text)
    for text in (
        *("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128", "169.254.0.0/16", "fe80::/10"),
        *("224.0.0.0/4", "ff00::/8"),
    )
)


class Denied(NamedTuple):
    networks: tuple[IPv4Network | IPv6Network, ...]
    #: Shell patterns, lower case, matched against the exchange's name.
    patterns: tuple[str, ...] = ()

    def address(self, address: str) -> bool:
        """Whether `address` (textual, v4 or v6) may not be connected to."""
        host: IPv4Address | IPv6Address = ip_address(address)
        if isinstance(host, IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped  # the kernel connects ::ffff:127.0.0.1 to 127.0.0.1
        return any(host.version == net.version and host in net for net in self.networks)

    def name(self, name: str) -> bool:
        """Whether an exchange of this name (lower case, no trailing dot) is to be skipped."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


DEFAULT_DENIED = Denied(DEFAULT_NETWORKS)
