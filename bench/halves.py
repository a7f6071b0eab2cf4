"""One half of `mixed` or `storm`: senders hand their mail to the gateway, and it is waited for.

Keeps what the senders were told and what the gateway used; judges nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import gevent

from gwrelay_bench.gateway import Gateway
from gwrelay_bench.machine import usage
from gwrelay_bench.scenario import Bench
from gwrelay_bench.sender import NOTHING, Errand, Report, Sender
from gwrelay_bench.sinksession import Arrival

#: Seconds without an arrival at a host that is well after which the rest is called missing.
_PATIENCE_S = 15.0
_POLL_S = 0.1
#: Seconds between two looks at the connections: to go through them all takes milliseconds, in
#: the process of the sinks.
_LOOK_EVERY_S = 1.0


class Hosts(Protocol):
    """Where the mail goes."""

    #: Domains whose hosts take all mail, in good time.
    well: frozenset[str]

    @property
    def arrivals_at_well(self) -> list[Arrival]:
        """Grows."""

    def connections(self) -> Counter[str]:
        """What clients have there, as machine.connections() says."""


class Half(NamedTuple):
    """What became of it."""

    second: Report
    campaign: Report
    #: Of the gateway, in this half.
    cpu_s: float
    #: Of the gateway while the campaign was handed in: 1.0 is one core all the time.
    cores_for_campaign: float | None
    #: Of the gateway, since it started.
    peak_bytes: int
    #: Of the gateway to the exchanges: the most in each state.
    connections: Mapping[str, int]

    @property
    def accepted(self) -> dict[str, float]:
        """Of both senders, as Report.accepted."""
        return {**self.second.accepted, **self.campaign.accepted}


class Halves:
    """They run on one gateway, `relay` being where it listens."""

    def __init__(
        self, bench: Bench, hosts: Hosts, gateway: Gateway, relay: tuple[str, int]
    ) -> None:
        self._bench = bench
        self._hosts = hosts
        self._gateway = gateway
        self._relay = relay
        #: Arrivals at hosts that are well, and of whom.
        self._seen = 0
        self._arrived: set[str] = set()
        #: (Unix seconds, CPU seconds of the gateway until then), at each look.
        self._used: list[tuple[float, float]] = []

    def run(self, what: str, second: Errand, campaign: Errand | None = None) -> Half:
        """Returns once all is sent, and all that hosts which are well can take has arrived.

        Raises GatewayDied or SenderDied.
        """
        before = usage(self._gateway.pid)
        most: Counter[str] = Counter()
        errands = [errand for errand in (second, campaign) if errand is not None]
        with ExitStack() as running:
            senders = []
            for errand in errands:
                senders.append(Sender(self._bench.directory, self._relay, errand))
                running.callback(senders[-1].kill)
            total = sum(errand.messages for errand in errands)
            advance = running.enter_context(self._bench.steps(what, total))
            self._watch(lambda: all(sender.is_done for sender in senders), advance, most)
            reports = [sender.report() for sender in senders]
            self._watch(self._has_arrived(reports), advance, most)
        after = usage(self._gateway.pid)
        crowd = reports[1] if campaign is not None else NOTHING
        return Half(
            reports[0],
            crowd,
            after.cpu_s - before.cpu_s,
            self._cores(crowd.began_at, crowd.ended_at),
            after.peak_bytes,
            most,
        )

    def _watch(
        self, is_over: Callable[[], bool], advance: Callable[[int], None], most: Counter[str]
    ) -> None:
        """Until `is_over`; `most` is kept up to date meanwhile."""
        look_at = time.monotonic()
        while not is_over():
            gevent.sleep(_POLL_S)
            self._gateway.check()
            self._used.append((time.time(), usage(self._gateway.pid).cpu_s))
            fresh = self._hosts.arrivals_at_well[self._seen :]
            self._seen += len(fresh)
            self._arrived.update(r for arrival in fresh for r in arrival.recipients)
            advance(len(fresh))
            if time.monotonic() >= look_at:
                most |= self._hosts.connections()
                look_at = time.monotonic() + _LOOK_EVERY_S

    def _cores(self, since: float, until: float) -> float | None:
        """What the gateway had of them from `since` to `until` (Unix seconds), as far as it was
        looked at; None if it was not looked at twice."""
        looks = [(at, cpu_s) for at, cpu_s in self._used if since <= at <= until]
        if len(looks) < 2:
            return None
        (first_at, first_s), (last_at, last_s) = looks[0], looks[-1]
        return round((last_s - first_s) / (last_at - first_at), 2)

    def _has_arrived(self, reports: list[Report]) -> Callable[[], bool]:
        """Whether all that they say was accepted for hosts which are well is there, or nothing
        has come for _PATIENCE_S."""
        outstanding = {
            recipient
            for report in reports
            for recipient in report.accepted
            if recipient.rpartition("@")[2] in self._hosts.well
        }
        seen, heard_at = self._seen, time.monotonic()

        def has_arrived() -> bool:
            nonlocal seen, heard_at
            if self._seen > seen:
                seen, heard_at = self._seen, time.monotonic()
            outstanding.difference_update(self._arrived)
            return not outstanding or time.monotonic() - heard_at > _PATIENCE_S

        return has_arrived
