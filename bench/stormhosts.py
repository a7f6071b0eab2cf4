"""Where the mail of `storm` goes: hosts that are well, one that knows nobody, and one that takes
the reports about that.

Each has a loopback address of its own, all on one port.  The one that refuses is a process of its
own, so that nobody waits for it; of the others this process has the sinks.
"""

import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress

import gevent

from gwrelay_bench.behaviour import Behaviour
from gwrelay_bench.loopback import Loopback
from gwrelay_bench.machine import connections
from gwrelay_bench.scenario import BenchFailed
from gwrelay_bench.sink import Sink
from gwrelay_bench.sinksession import Arrival

#: Whose host refuses every recipient, and where the reverse-paths of that mail lead.
REFUSES, RETURNS = "refuses.example", "returns.example"
WELL = tuple(f"well{number}.example" for number in range(20))
_VERBS = ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT", "RSET")
_POLL_S = 0.02
_START_S = 15.0


class Hosts(Loopback):
    """Context manager; they are up inside it.  `returns_delay_s` is what RETURNS's host takes for
    each of its replies."""

    def __init__(self, returns_delay_s: float = 0.0) -> None:
        well = {domain: f"127.5.1.{number}" for number, domain in enumerate(WELL, start=1)}
        super().__init__({REFUSES: "127.5.0.1", RETURNS: "127.5.0.2", **well})
        self.well = frozenset(WELL)
        delays = dict.fromkeys(_VERBS if returns_delay_s else (), returns_delay_s)
        self._well = Sink(digest=False)
        self._returns = Sink(Behaviour(delays=delays), digest=False)

    @property
    def arrivals_at_well(self) -> list[Arrival]:
        """Grows."""
        return self._well.arrivals

    @property
    def arrivals_at_returns(self) -> list[Arrival]:
        """Grows."""
        return self._returns.arrivals

    def connections(self) -> Counter[str]:
        """What clients have here, as machine.connections() says."""
        return connections(self.smtp_port)

    def _open(self, opened: ExitStack) -> None:
        self._serve(self._well, WELL, opened)
        self._serve(self._returns, (RETURNS,), opened)
        self._start_refusing(opened)

    def _start_refusing(self, opened: ExitStack) -> None:
        at = (self.addresses[REFUSES], self.smtp_port)
        words = ["--listen", f"{at[0]}:{at[1]}", "--refuse", REFUSES, "--no-digest"]
        process = subprocess.Popen(
            [sys.executable, "-m", "gwrelay_bench.sink", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        opened.callback(process.wait)
        opened.callback(process.kill)
        deadline = time.monotonic() + _START_S
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(ConnectionRefusedError), socket.create_connection(at, _START_S):
                return
            gevent.sleep(_POLL_S)
        raise BenchFailed("the host that refuses did not start")
