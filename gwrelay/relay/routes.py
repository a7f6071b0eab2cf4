"""Where mail for a destination goes: to its own exchanges, or to fixed smart hosts.  Pure."""

from typing import NamedTuple


class NextHop(NamedTuple):
    """A smart host as configured: `name` is a host name or an IP address."""

    name: str
    port: int = 25

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Routes(NamedTuple):
    """`smarthosts` are tried in order; none of them: each destination's own exchanges."""

    smarthosts: tuple[NextHop, ...] = ()
