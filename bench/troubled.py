"""Where the mail of `mixed` goes: hosts that are well, hosts that are slow, and dead ones.

Every destination has one exchange on a loopback address of its own, all on one port.  What the
well and the slow ones take are the arrivals of two sinks in this process.
"""

import errno
import select
import socket
from collections import Counter
from contextlib import ExitStack
from typing import NamedTuple

from gwrelay_bench.behaviour import Behaviour
from gwrelay_bench.loopback import Loopback
from gwrelay_bench.machine import ESTABLISHED, connections
from gwrelay_bench.sink import Sink
from gwrelay_bench.sinksession import Arrival

#: Seconds that a slow host takes for each reply, the banner included.
SLOW_S = 5.0
_SLOW = Behaviour(
    delays=dict.fromkeys(
        ("CONNECT", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "DOT", "RSET", "NOOP", "QUIT"), SLOW_S
    ),
    # Or it would answer three commands at once, and not each after its time.
    pipelining=False,
)
#: Seconds in which a host on loopback that can be reached at all is reached.
_REACHED_S = 0.3
#: Most on one net of ours, 127.3.N.0/24.
_ON_A_NET = 250
MOST = 256 * _ON_A_NET


class NotDead(Exception):
    """Connecting to a host that should be dead does not hang on this machine."""


class Domains(NamedTuple):
    """By what their hosts are like."""

    well: tuple[str, ...]
    slow: tuple[str, ...]
    dead: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return self.dead + self.slow + self.well


def domains(count: int, dead_share: float, slow_share: float) -> Domains:
    """`count` in all, at most MOST; the shares are rounded to whole destinations."""
    dead = round(count * dead_share)
    slow = min(count - dead, round(count * slow_share))
    names = tuple(f"d{number}.example" for number in range(count))
    return Domains(names[dead + slow :], names[dead : dead + slow], names[:dead])


class Hosts(Loopback):
    """Context manager; they are up, or dead, inside it.  Raises NotDead on entering."""

    def __init__(self, destinations: Domains) -> None:
        super().__init__(
            {
                domain: f"127.3.{number // _ON_A_NET}.{number % _ON_A_NET + 1}"
                for number, domain in enumerate(destinations.all)
            }
        )
        self.well = frozenset(destinations.well)
        self._domains = destinations
        self._well = Sink(digest=False)
        self._slow = Sink(_SLOW, digest=False)

    @property
    def arrivals_at_well(self) -> list[Arrival]:
        """Grows."""
        return self._well.arrivals

    @property
    def arrivals_at_slow(self) -> list[Arrival]:
        """Grows."""
        return self._slow.arrivals

    def connections(self) -> Counter[str]:
        """What clients have here, as machine.connections() says."""
        found = connections(self.smtp_port)
        found[ESTABLISHED] -= len(self._domains.dead)  # those that fill a backlog are ours
        return found

    def _open(self, opened: ExitStack) -> None:
        self._serve(self._well, self._domains.well, opened)
        self._serve(self._slow, self._domains.slow, opened)
        dead = [(self.addresses[name], self.smtp_port) for name in self._domains.dead]
        for address in dead:
            play_dead(address, opened)
        _check_dead(dead)


def play_dead(address: tuple[str, int], opened: ExitStack) -> None:
    """Listen there with a backlog that is full, of one connection which nobody accepts: the
    kernel drops the SYN of whoever comes next, and connecting hangs as to a host that is gone."""
    listener = opened.enter_context(socket.socket())
    listener.bind(address)
    listener.listen(0)
    opened.enter_context(socket.create_connection(address))


def _check_dead(dead: list[tuple[str, int]]) -> None:
    """That a backlog ends there is Linux's custom, and no promise.  Raises NotDead."""
    with ExitStack() as tried:
        probes = [tried.enter_context(socket.socket()) for _ in dead]
        for probe, address in zip(probes, dead, strict=True):
            probe.setblocking(False)
            status = probe.connect_ex(address)
            if status != errno.EINPROGRESS:
                raise NotDead(f"connecting to {address[0]}: {errno.errorcode.get(status, status)}")
        answered = select.select([], probes, [], _REACHED_S)[1] if probes else []
    if answered:
        raise NotDead(f"{len(answered)} of {len(dead)} hosts that should be dead answer")
