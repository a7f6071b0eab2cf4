"""Addresses and names that mail must not be carried to, whatever the DNS says.

Without such a list anybody who controls a zone makes us connect to our own inner services.
Pure: networks and patterns in, yes or no out.
"""

from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from gwrelay.errors import ConfigError

#: Loopback, unspecified ("this host"), link-local, multicast.  Private ranges are not among
#: them: gateways inside a company do deliver there.
DEFAULT_NETWORKS = (
    "127.0.0.0/8",
    "::1/128",
    "0.0.0.0/8",
    "::/128",
    "169.254.0.0/16",
    "fe80::/10",
    "224.0.0.0/4",
    "ff00::/8",
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


def parse_denied(values: tuple[str, ...] | list[str] = ()) -> Denied:
    """What `--deny-host` values mean: networks, addresses or name patterns, added to the default.

    The word "none" among them leaves the default out.  Raises ConfigError for a value that is
    meant as a network and is not one.
    """
    networks = [] if "none" in values else [ip_network(net) for net in DEFAULT_NETWORKS]
    patterns = []
    for value in values:
        if value == "none":
            continue
        if "/" in value or ":" in value or value.replace(".", "").isdigit():
            networks.append(_network(value))
        else:
            patterns.append(value.lower().rstrip("."))
    return Denied(tuple(networks), tuple(patterns))


def _network(value: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(value, strict=False)
    except ValueError as error:
        raise ConfigError(
            f"deny-host: {value!r} is no network, address or name pattern ({error});"
            " write 10.0.0.0/8, 192.0.2.1, *.internal or none"
        ) from error


DEFAULT_DENIED = parse_denied()
