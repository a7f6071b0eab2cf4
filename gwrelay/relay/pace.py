"""When a site may send the next message or open the next session: its own rates, and that which
all sites share.  Rates are exact for what is counted: transactions, and connections attempted.
"""

from collections.abc import Callable

from gwrelay.queue.delivery import Delivery
from gwrelay.relay.fairline import cost_of
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.rates import Rate


class Pace:
    """`everybodys` is the rate that all share, if there is one."""

    def __init__(
        self, limits: SiteLimits, everybodys: Rate | None, clock: Callable[[], float]
    ) -> None:
        self._messages = _rate(limits.messages_per_s)
        self._connections = _rate(limits.connections_per_s)
        self._everybodys = everybodys
        self._clock = clock

    def set(self, limits: SiteLimits) -> None:
        """Other rates than before; one that stays the same goes on."""
        if limits.messages_per_s != _per_s(self._messages):
            self._messages = _rate(limits.messages_per_s)
        if limits.connections_per_s != _per_s(self._connections):
            self._connections = _rate(limits.connections_per_s)

    @property
    def messages_per_s(self) -> float:
        """That it may have of its own; 0.0: as many as there are."""
        return _per_s(self._messages)

    @property
    def limits_connections(self) -> bool:
        return self._connections is not None

    def message_wait_s(self) -> float:
        """Seconds until its own rate allows a message; 0.0: it does."""
        return self._messages.wait_s(self._clock()) if self._messages is not None else 0.0

    def connection_wait_s(self) -> float:
        return self._connections.wait_s(self._clock()) if self._connections is not None else 0.0

    def everybodys_wait_s(self) -> float:
        return self._everybodys.wait_s(self._clock()) if self._everybodys is not None else 0.0

    def send(self, delivery: Delivery) -> None:
        for rate in (self._messages, self._everybodys):
            if rate is not None:
                rate.take(self._clock(), cost_of(delivery))

    def refund(self, delivery: Delivery) -> None:
        """It is not sent after all."""
        for rate in (self._messages, self._everybodys):
            if rate is not None:
                rate.give_back(cost_of(delivery))

    def connect(self) -> None:
        if self._connections is not None:
            self._connections.take(self._clock())


def _rate(per_s: float) -> Rate | None:
    return Rate(per_s) if per_s else None


def _per_s(rate: Rate | None) -> float:
    return rate.per_s if rate is not None else 0.0
