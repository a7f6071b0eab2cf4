"""Is an address one that we listen on?  Mail sent there would come straight back (RFC 5321 5.1).

A listener on a wildcard address has every address of this machine; which those are is asked of
the kernel each time, since they come and go.
"""

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_address

_WILDCARDS = {"", "0.0.0.0", "::"}

#: Never ours (RFC 5737, RFC 3849).  If the kernel lets us bind even these, binding says nothing.
_FOREIGN = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def own_address_test(
    listening: Iterable[tuple[str, int]], exchange_port: int
) -> Callable[[str], bool]:
    """A test for `Rules.is_own`.  `listening` is (address, port) of each listener, "" for any.

    Only listeners on `exchange_port` count: that is the port exchanges are reached on.
    """
    hosts = {host for host, port in listening if port == exchange_port}
    wildcard = bool(hosts & _WILDCARDS)
    fixed = frozenset(_unmapped(host) for host in hosts - _WILDCARDS)

    def is_own(address: str) -> bool:
        address = _unmapped(address)
        return address in fixed or (wildcard and is_local(address))

    return is_own


def _unmapped(address: str) -> str:
    """The kernel connects ::ffff:192.0.2.1 to 192.0.2.1."""
    host = ip_address(address)
    mapped = host.ipv4_mapped if isinstance(host, IPv6Address) else None
    return str(mapped or host)


def is_local(address: str) -> bool:
    """Whether this machine has `address` (textual IP address).  Sends nothing."""
    if ip_address(address).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if _can_bind(family, _FOREIGN[family]):  # net.ipv4.ip_nonlocal_bind is on
        return _routed_to_itself(family, address)
    return _can_bind(family, address)


def _can_bind(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _routed_to_itself(family: socket.AddressFamily, address: str) -> bool:
    """Local addresses are reached from themselves.  Misses secondary ones of a subnet."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # UDP: picks a route, sends no packet
            return bool(probe.getsockname()[0] == address)
    except OSError:
        return False
