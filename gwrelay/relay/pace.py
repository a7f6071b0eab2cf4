"""When a site may send the next message or open the next session: its own rates, and that which
all sites share.  Rates are exact for what is counted: transactions, and connections attempted.
"""

from collections.abc import Callable, Hashable

from gwrelay.queue.delivery import Delivery
from gwrelay.relay.fairline import cost_of
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.node import NodeSites
from gwrelay.relay.rates import AnyRate, NodeRate, Rate
from gwrelay.relay.rows import key_of

#: Makes the rate of this name, of so many a second.
Make = Callable[[str, float], AnyRate]


def rates_of(key: Hashable, node: NodeSites | None, clock: Callable[[], float]) -> Make:
    """What makes the rates of a site: those of `node`, or of this process alone."""

    def make(name: str, per_s: float) -> AnyRate:
        if node is None:
            return Rate(per_s, clock)
        return NodeRate(per_s, node, key_of(name, *_in_order(key)))

    return make


def session_key(key: Hashable) -> int:
    """Of a site's sessions, in a node."""
    return key_of("sessions", *_in_order(key))


def _in_order(key: Hashable) -> tuple[object, ...]:
    """A set's order is not the same in all processes."""
    return tuple(sorted(key)) if isinstance(key, frozenset) else (key,)


class Pace:
    """`everybodys` is the rate that all share, if there is one."""

    def __init__(self, limits: SiteLimits, everybodys: AnyRate | None, make: Make) -> None:
        self._make = make
        self._messages: AnyRate | None = None
        self._connections: AnyRate | None = None
        self._everybodys = everybodys
        self.set(limits)

    def set(self, limits: SiteLimits) -> None:
        """Other rates than before; one that stays the same goes on."""
        if limits.messages_per_s != _per_s(self._messages):
            self._messages = self._rate("messages", limits.messages_per_s)
        if limits.connections_per_s != _per_s(self._connections):
            self._connections = self._rate("connections", limits.connections_per_s)

    def _rate(self, name: str, per_s: float) -> AnyRate | None:
        return self._make(name, per_s) if per_s else None

    @property
    def messages_per_s(self) -> float:
        """That it may have of its own; 0.0: as many as there are."""
        return _per_s(self._messages)

    @property
    def limits_connections(self) -> bool:
        return self._connections is not None

    @property
    def waits_s(self) -> tuple[float, float, float]:
        """Seconds until a message may go, as far as its own rate and that of all are concerned; and
        until another connection may be tried."""
        return _wait_s(self._messages), _wait_s(self._everybodys), _wait_s(self._connections)

    def take_message(self) -> float:
        """One goes, if its own rate allows that: 0.0; else seconds to wait."""
        return 0.0 if self._messages is None else self._messages.go()

    def give_back_message(self) -> None:
        if self._messages is not None:
            self._messages.give_back(1)

    def take_connection(self) -> float:
        return 0.0 if self._connections is None else self._connections.go()

    def give_back_connection(self) -> None:
        if self._connections is not None:
            self._connections.give_back(1)

    def connect(self) -> None:
        """One is tried, whether that is allowed or not."""
        if self._connections is not None:
            self._connections.take(1)

    def send(self, delivery: Delivery) -> None:
        """It goes, and its first transaction is counted already."""
        more = cost_of(delivery) - 1
        if more:
            for rate in (self._messages, self._everybodys):
                if rate is not None:
                    rate.take(more)

    def refund(self, delivery: Delivery) -> None:
        """It is not sent after all."""
        for rate in (self._messages, self._everybodys):
            if rate is not None:
                rate.give_back(cost_of(delivery))


def _per_s(rate: AnyRate | None) -> float:
    return rate.per_s if rate is not None else 0.0


def _wait_s(rate: AnyRate | None) -> float:
    return rate.wait_s() if rate is not None else 0.0
