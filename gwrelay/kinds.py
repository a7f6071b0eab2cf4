"""The kinds of value that settings have: how each is shown, how it is read, what is right."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gwrelay.notation import (
    read_address,
    read_delays,
    read_duration,
    read_duration_range,
    read_free_space,
    read_host_rules,
    read_hostname,
    read_listen_address,
    read_listener,
    read_mailbox,
    read_network,
    read_pace,
    read_path,
    read_rate,
    read_resolver,
    read_share,
    read_size,
    read_smart_host,
    read_socket,
    read_switch,
    read_timeout,
)


class Kind(NamedTuple):
    """A kind of value: how --help shows it, how it is read, and what is right when it is wrong."""

    metavar: str
    read: Callable[[str], Any]
    #: Ends the message about a bad value.
    right: str
    #: The unit a field's name must end in; "" when the value has none.
    unit: str = ""
    #: A list, in commas or by repetition; `read` turns each part into a tuple of values.
    repeatable: bool = False


def count(lowest: int = 1, highest: int = 1_000_000) -> Kind:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise ValueError("is not a whole number")
        if not lowest <= int(text) <= highest:
            raise ValueError(f"is outside {lowest}..{highest}")
        return int(text)

    return Kind("N", read, f"write a whole number from {lowest} to {highest}")


def count_or_auto(highest: int) -> Kind:
    """0 stands for auto."""
    counted = count(1, highest)

    def read(text: str) -> int:
        return 0 if text == "auto" else int(counted.read(text))

    return Kind("auto|N", read, f"{counted.right}, or auto")


def size(lowest: str, highest: str) -> Kind:
    def read(text: str) -> int:
        size_bytes = read_size(text)
        if not read_size(lowest) <= size_bytes <= read_size(highest):
            raise ValueError(f"is outside {lowest}..{highest}")
        return size_bytes

    return Kind("SIZE", read, "write bytes, or a number with K, M or G (1024s), like 50M", "bytes")


def choice(*words: str) -> Kind:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError("is not one of the choices")
        return text

    return Kind("|".join(words), read, f"write {', '.join(words[:-1])} or {words[-1]}")


_RIGHT_DURATION = "write a number with its unit, like 5m, 300s, 1h30m, 2d or 250ms"
DURATION = Kind("DURATION", read_duration, f"{_RIGHT_DURATION}, or 0", "s")
TIMEOUT = Kind("DURATION", read_timeout, _RIGHT_DURATION, "s")
DURATION_RANGE = Kind(
    "FIRST..LONGEST", read_duration_range, "write two durations, like 30s..1h, or one", "s"
)
DELAYS = Kind("DELAY[*N],...", read_delays, "write delays, like 1m,5m,10m,1h*2,4h", "s", True)
RATE = Kind("SIZE/s", read_rate, "write bytes a second, like 50M/s", "bytes_s")
PACE = Kind(
    "N/s|none", read_pace, "write how many a second, like 10/s, or 90/m, 500/h, 2000/d", "per_s"
)
SHARE = Kind("SHARE", read_share, "write a percentage, like 15%, or its fraction, 0.15", "share")
ADDRESS = Kind("ADDR", read_address, "write one of our addresses, like 192.0.2.1 or 2001:db8::1")
MAILBOX = Kind("ADDRESS", read_mailbox, "write an address, like postmaster@example.com")
FREE_SPACE = Kind("SHARE|SIZE", read_free_space, "write a percentage, like 5%, or a size, like 2G")
LISTENERS = Kind(
    "HOST:PORT", read_listener, "write HOST:PORT, like 127.0.0.1:2525 or [::1]:2525", "", True
)
LISTEN_ADDRESSES = Kind(
    "[tls:]HOST:PORT",
    read_listen_address,
    "write HOST:PORT, like 127.0.0.1:2525 or [::1]:2525, or tls:HOST:PORT",
    "",
    True,
)
SMART_HOSTS = Kind(
    "[tls:]HOST[:PORT]",
    read_smart_host,
    "write HOST[:PORT], like mx.example:587 or [::1]:25, or tls:HOST[:PORT]",
    "",
    True,
)
RESOLVERS = Kind(
    "ADDR[:PORT]", read_resolver, "write ADDR[:PORT], like 127.0.0.1 or [::1]:5353", "", True
)
NETWORKS = Kind("CIDR,...", read_network, "write networks, like 127.0.0.0/8,::1/128", "", True)
HOST_RULES = Kind(
    "CIDR|PATTERN|none",
    read_host_rules,
    "write networks or name patterns, like 10.0.0.0/8 or *.corp.example, or none",
    "",
    True,
)
HOSTNAME = Kind("NAME", read_hostname, "give --hostname a full name, like gw.example.com")
DIRECTORY = Kind("DIR", read_path, "write a directory, like /var/spool/gwrelay")
FILE = Kind("FILE", read_path, "write a file name, like /var/log/gwrelay.log")
USER = Kind("NAME", read_path, "write the name of a user, like gwrelay")
SWITCH = Kind("yes|no", read_switch, "write yes or no")
SOCKET = Kind("unix:PATH", read_socket, "write unix:PATH, like unix:/run/gwrelay/admin.sock")
LEVEL = choice("debug", "info", "warning", "error")
