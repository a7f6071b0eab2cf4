"""Deliveries whose destination is being looked up, and the greenlets that ask: at most so many at
a time, one destination after the other.
"""

import logging
from collections import deque
from collections.abc import Callable

from gevent.pool import Group

from gwrelay.message.reply import Reply
from gwrelay.mx.failures import ResolutionError
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.hosts import Destinations, Exchanges
from gwrelay.relay.parked import Parked
from gwrelay.relay.transit import Transit

logger = logging.getLogger(__name__)

#: Deliveries for one destination that are kept until its answer; more of them are parked.
_KEPT = 100

_LOOKUP_BROKE = Reply(451, "4.4.3", "internal error while looking up the destination")

Found = Exchanges | ResolutionError


class Gathering:
    """What waits for one answer."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.parked = Parked()


class Lookups:
    """`park` lets a delivery wait with others until `wake` is called for them; `file` gets each
    of the rest with the answer; `changed` is told of each."""

    def __init__(
        self,
        destinations: Destinations,
        concurrency: int,
        *,
        transit: Transit,
        park: Callable[[Delivery, Parked], None],
        wake: Callable[[Parked], None],
        file: Callable[[Delivery, Found], None],
        changed: Callable[[], None],
    ) -> None:
        self._destinations = destinations
        self._transit = transit
        self._park = park
        self._wake = wake
        self._file = file
        self._changed = changed
        self._greenlets = Group()
        self._free = concurrency
        self._gathering: dict[str, Gathering] = {}
        #: Destinations among them whose lookup has not begun, oldest first.
        self._to_ask: deque[str] = deque()

    def __len__(self) -> int:
        """Destinations."""
        return len(self._gathering)

    def __contains__(self, destination: str) -> bool:
        return destination in self._gathering

    def under_way(self) -> list[tuple[str, Gathering]]:
        """Destinations, and what waits for the answer on each; another one for each lookup."""
        return list(self._gathering.items())

    def add(self, delivery: Delivery) -> None:
        """Wait for the answer on its destination; ask, unless somebody does."""
        destination = delivery.destination
        gathering = self._gathering.get(destination)
        if gathering is None:
            gathering = self._gathering[destination] = Gathering()
            self._to_ask.append(destination)
            if self._free:
                self._free -= 1
                self._greenlets.spawn(self._ask_all)
        if len(gathering.deliveries) < _KEPT:
            gathering.deliveries.append(delivery)
        else:
            self._park(delivery, gathering.parked)

    def stop(self) -> None:
        """End all of them: what waits stays as it was."""
        self._greenlets.kill()

    def _ask_all(self) -> None:
        """On its own greenlet: one destination after the other, until none is left."""
        while self._to_ask:
            self._ask(self._to_ask.popleft())
        self._free += 1

    def _ask(self, destination: str) -> None:
        found: Found = ResolutionError(_LOOKUP_BROKE, None)
        try:
            found = self._destinations.find(destination)
        except Exception:
            logger.exception("looking up %s", destination)
        gathering = self._gathering.pop(destination)
        for delivery in self._transit.each(gathering.deliveries):
            self._file(delivery, found)
        self._wake(gathering.parked)
        self._changed()
