"""Values as people write them: durations, sizes, shares, endpoints, networks.

Pure.  Each read_* raises ValueError with what is wrong, to follow the value itself in a
message: "'5x' is not a duration".
"""

import ipaddress
import re
from typing import NamedTuple

import idna

from gwrelay.mx.denied import DEFAULT_NETWORKS

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: One entry of --deny-host: a network, or a name pattern in lower case ("*.corp.example").
HostRule = Network | str


class Endpoint(NamedTuple):
    """`host` is a name or a textual address, never in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SmartHost(NamedTuple):
    """`implicit_tls`: it speaks TLS from the first byte (RFC 8314 3.3)."""

    host: str
    port: int
    implicit_tls: bool = False

    def __str__(self) -> str:
        return f"{'tls:' if self.implicit_tls else ''}{Endpoint(self.host, self.port)}"


class ListenAddress(NamedTuple):
    """Where clients come to.  `implicit_tls`: they speak TLS from the first byte there."""

    host: str
    port: int
    implicit_tls: bool = False

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.port)

    def __str__(self) -> str:
        return f"{'tls:' if self.implicit_tls else ''}{self.endpoint}"


class FreeSpace(NamedTuple):
    """How much of a disk must stay free: a share of it (0..1) or `size_bytes`; the other is 0."""

    share: float
    size_bytes: int

    def needed_bytes(self, total_bytes: int) -> int:
        return max(int(total_bytes * self.share), self.size_bytes)


IMPLICIT_TLS_PORT = 465

_DAY_S = 86_400
#: Far below what a socket's time-out can hold (2**63 ns), far above any sense.
_LONGEST_S = 3650 * _DAY_S
_UNITS_MS = {"w": 7 * _DAY_S * 1000, "d": _DAY_S * 1000, "h": 3_600_000, "m": 60_000}
_UNITS_MS |= {"s": 1000, "ms": 1}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,6})?"
_DURATION = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _UNITS_MS))
_SIZE = re.compile(rf"({_NUMBER})([KMG])", re.IGNORECASE)
_SIZE_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
#: Names that are only looked up may hold underscores: container networks do that.
_LOOKED_UP = re.compile(r"(?=.{1,253}\Z)(?=.*[A-Za-z])[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")
#: RFC 5321 4.1.2, Dot-string, and 4.5.3.1.1.
_LOCAL_PART = re.compile(
    r"(?=.{1,64}\Z)[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*", re.A
)
_PATTERN = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_.*?-]+")


def read_duration(text: str) -> float:
    """Seconds.  Units descend and appear once; a bare 0 is the only number without one."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError("is not a duration")
    # Whole milliseconds first: 0.1 + 0.2 has no place in a schedule.
    parts = zip(match.groups(), _UNITS_MS.values(), strict=True)
    seconds = sum(float(number) * unit for number, unit in parts if number) / 1000
    if seconds > _LONGEST_S:
        raise ValueError("is longer than ten years")
    return seconds


def read_timeout(text: str) -> float:
    """Seconds, more than 0: a socket that may not wait at all is in non-blocking mode."""
    seconds = read_duration(text)
    if seconds == 0:
        raise ValueError("leaves no time at all")
    return seconds


def read_duration_range(text: str) -> tuple[float, float]:
    """Seconds, first and longest; a single value is both."""
    first, dots, longest = text.partition("..")
    low = read_timeout(first)
    high = read_timeout(longest) if dots else low
    if low > high:
        raise ValueError("begins with the longer one")
    return low, high


def read_delays(text: str) -> tuple[float, ...]:
    """Seconds: one delay, or "1h*2" for the same one twice."""
    delay, star, times = text.partition("*")
    if star and not re.fullmatch(r"[1-9][0-9]{0,2}", times):
        raise ValueError("has no count from 1 to 999 after its *")
    return (read_timeout(delay),) * (int(times) if star else 1)


def read_size(text: str) -> int:
    """Bytes."""
    if re.fullmatch(r"[0-9]{1,15}", text):
        return int(text)
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("is not a size")
    return int(float(match[1]) * _SIZE_UNITS[match[2].upper()])


def read_rate(text: str) -> float:
    """Bytes a second, from a size with or without its /s."""
    rate = read_size(text.removesuffix("/s"))
    if not rate:
        raise ValueError("leaves nothing at all")
    return float(rate)


def read_pace(text: str) -> float:
    """How many a second, from so many /s, /m, /h or /d; 0.0 for none, which is no limit."""
    if text == "none":
        return 0.0
    match = re.fullmatch(rf"({_NUMBER})/([smhd])", text)
    if match is None:
        raise ValueError("is not a rate")
    per_s = float(match[1]) * 1000 / _UNITS_MS[match[2]]
    if not per_s:
        raise ValueError("leaves nothing at all")
    return per_s


def read_share(text: str) -> float:
    """0..1, from a percentage or the plain number."""
    if not re.fullmatch(rf"{_NUMBER}%?", text):
        raise ValueError("is not a share")
    share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if share > 1:
        raise ValueError("is more than the whole")
    return share


def read_free_space(text: str) -> FreeSpace:
    if text.endswith("%"):
        return FreeSpace(read_share(text), 0)
    return FreeSpace(0.0, read_size(text))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return text.isprintable()  # whatever follows a % (a scope) was not looked at


def read_endpoint(text: str, port: int | None = None, lowest_port: int = 1) -> Endpoint:
    """HOST[:PORT], ADDRESS[:PORT], [V6][:PORT] or a bare V6.  `port` None: it must be given."""
    if port is not None and _is_address(text):
        return Endpoint(text, port)
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::([0-9]{1,6}))?", text)
    if match is None:
        raise ValueError("is not a host with a port")
    bracketed, plain, digits = match.groups()
    if digits is None and port is None:
        raise ValueError("has no port")
    if bracketed is not None and not (":" in bracketed and _is_address(bracketed)):
        raise ValueError("has something other than an IPv6 address in its brackets")
    if plain is not None and not (_is_address(plain) or _LOOKED_UP.fullmatch(plain)):
        raise ValueError("names no host" if plain else "has no host")
    number = int(digits) if digits is not None else port
    if number is None or not lowest_port <= number <= 65535:
        raise ValueError(f"has a port outside {lowest_port}..65535")
    return Endpoint(bracketed or plain, number)


def read_listener(text: str) -> tuple[Endpoint]:
    """Port 0 is for tests and demos: the system picks one."""
    return (read_endpoint(text, lowest_port=0),)


def read_listen_address(text: str) -> tuple[ListenAddress]:
    """[tls:]HOST:PORT, with port 465 as in read_smart_host(), and port 0 as in read_listener()."""
    plain = text.removeprefix("tls:")
    host, port = read_endpoint(plain, lowest_port=0)
    return (ListenAddress(host, port, plain != text or port == IMPLICIT_TLS_PORT),)


def read_smart_host(text: str) -> tuple[SmartHost]:
    """[tls:]HOST[:PORT].  Port 465 speaks TLS from the first byte, said or not (RFC 8314 7.3)."""
    plain = text.removeprefix("tls:")
    host, port = read_endpoint(plain, port=25 if plain == text else IMPLICIT_TLS_PORT)
    return (SmartHost(host, port, plain != text or port == IMPLICIT_TLS_PORT),)


def read_resolver(text: str) -> tuple[Endpoint]:
    """A resolver is an address: there is nobody to ask for its name."""
    endpoint = read_endpoint(text, port=53)
    read_address(endpoint.host)
    return (endpoint,)


def read_address(text: str) -> str:
    if not _is_address(text):
        raise ValueError("is not an IP address")
    return text


def read_network(text: str) -> tuple[Network]:
    """A CIDR block; a bare address is the block of itself."""
    try:
        return (ipaddress.ip_network(text),)
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("is not a network") from None
    raise ValueError(f"has bits set past its prefix (the network is {wider})")


def read_host_rules(text: str) -> tuple[HostRule, ...]:
    """A network, a name pattern, `none`, or `default` for DEFAULT_NETWORKS."""
    if text in ("none", "default"):
        return DEFAULT_NETWORKS if text == "default" else ()
    if "/" in text or ":" in text or _is_address(text):
        return read_network(text)
    if not _PATTERN.fullmatch(text):
        raise ValueError("is neither a network nor a name pattern")
    return (text.lower().rstrip("."),)


def read_hostname(text: str) -> str:
    """What EHLO, banner and Received fields say (RFC 5321 2.3.5)."""
    if not _HOSTNAME.fullmatch(text) or _is_address(text):
        raise ValueError("is not a host name")
    return text


def read_mailbox(text: str) -> str:
    """Local part and domain, in ASCII and without quotes."""
    local_part, _, domain = text.rpartition("@")
    if not (_LOCAL_PART.fullmatch(local_part) and _HOSTNAME.fullmatch(domain)):
        raise ValueError("is not an address")
    return text


def read_destination(text: str) -> str:
    """A recipient's domain as deliveries have it: lower case, A-labels (RFC 5891).  An address
    literal keeps its brackets."""
    name = text.lower().removesuffix(".")
    if name.startswith("[") and name.endswith("]"):
        address = name[1:-1].removeprefix("ipv6:")
        if _is_address(address) and (":" in address) == name.startswith("[ipv6:"):
            return name
        raise ValueError("is not an address literal")
    try:
        name = name if name.isascii() else idna.encode(name).decode()
    except idna.IDNAError:
        raise ValueError("is not a domain") from None
    if not _LOOKED_UP.fullmatch(name):
        raise ValueError("is not a domain")
    return name


def read_switch(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("is neither yes nor no")
    return text == "yes"


def read_socket(text: str) -> str:
    """Path of a Unix socket, which may begin with the word SPOOL."""
    kind, _, path = text.partition(":")
    if kind != "unix" or not path:
        raise ValueError("is no Unix socket")
    return read_path(path)


def read_path(text: str) -> str:
    # Names end up in logs and messages: no line breaks, NULs, escapes or stray bytes.
    if not text.isprintable():
        raise ValueError("has unprintable characters")
    return text
