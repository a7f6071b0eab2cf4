"""Raises an alarm about mail that has neither moved nor a time to wait for (`--stuck-after`).

What waits in the queue has such a time, and what is held a reason.  The others move like this:

    a destination that is looked up   by its answer
    deliveries that are being filed   one after the other
    what a relayer has                stage by stage, and byte by byte.  Each stage has a timer, so
                                      with the usual settings it is over before it is stuck
    what is ready at a site           when some of it is taken; unless it is known what it waits
                                      for: hosts, sessions or relayers that are in use, a rate

Changes nothing: what it tells of is a host that takes all the time it is given, or a bug.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator

from gwrelay.message.envelope import message_name
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.manager import SmartHostSMTPRelayingManager
from gwrelay.relay.site import Site
from gwrelay.relay.stuck import Stuck, Thing

logger = logging.getLogger(__name__)

#: Looks before something is stuck, and the most seconds between two of them.
_LOOKS, _LONGEST_S = 4, 60.0
#: Things in one step, and seconds between two steps.
_AT_ONCE, _PAUSE_S = 500, 0.05
#: Lines of the log in one look: a bug may stop everything.
_LINES = 20

#: What all deliveries are together that are being filed.
_FILING = "filing"

#: Told what is stuck, and for how many seconds.
Alarmed = Callable[[str, float], None]


class Watch:
    """`after_s` 0: nothing is ever stuck."""

    def __init__(
        self,
        manager: SmartHostSMTPRelayingManager,
        after_s: float,
        *,
        alarmed: Alarmed | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._after_s = after_s
        self._alarmed = alarmed or _nobody
        self._clock = clock
        self._stuck = Stuck(after_s)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        every_s = min(self._after_s / _LOOKS, _LONGEST_S)
        while self._after_s and not stop.wait(every_s):
            try:
                for _ in self.look():
                    if stop.wait(_PAUSE_S):
                        return
            except Exception:
                logger.exception("looking for what is stuck")

    def look(self) -> Iterator[None]:
        """One look, step by step."""
        self._stuck.begin()
        told = 0
        for n, thing in enumerate(self._things(), 1):
            if thing is not None:
                now = self._clock()
                since = self._stuck.see(thing, now)
                if since is not None:
                    told += 1
                    self._tell(thing, now - since, told)
            if n % _AT_ONCE == 0:
                yield
        self._stuck.end()

    @property
    def count(self) -> int:
        """Things that are stuck now."""
        return len(self._stuck)

    def stuck_for_s(self, delivery: Delivery, site: Site | None) -> float | None:
        """Seconds for which `delivery`, which is being relayed, has been stuck, or its destination,
        or `site`, which is its site; None: nothing is."""
        for concern in (delivery, delivery.destination, site):
            since = self._stuck.since(concern)
            if since is not None:
                return self._clock() - since
        return None

    def _tell(self, thing: Thing, for_s: float, told: int) -> None:
        if told <= _LINES:
            logger.error("stuck: %s; nothing has moved for %.0f s", thing.text, for_s)
        elif told == _LINES + 1:
            logger.error("stuck: and more, which are only counted")
        self._alarmed(thing.text, for_s)

    def _things(self) -> Iterator[Thing | None]:
        """All that should move; None for what need not."""
        manager = self._manager
        if manager.is_stopping:
            return
        for destination, gathering in manager.lookups():
            count = len(gathering.deliveries)
            yield Thing(destination, gathering, f"the lookup of {destination}, for {count} or more")
        if manager.transit:
            text = f"the filing of {len(manager.transit)} deliveries"
            yield Thing(_FILING, manager.transit.ended, text)
        for relayer, attempts in list(manager.managed.items()):
            for delivery in attempts.deliveries:
                name = message_name(delivery.message_id)
                where = relayer.whereabouts or attempts.site.name
                text = f"message {name} to {delivery.destination}, at {where}"
                yield Thing(delivery, relayer.progress, text)
        for site in manager.sites:
            if site.ready and not self._is_blocked(site):
                text = f"{len(site.ready)} deliveries that are ready for {site.name}"
                yield Thing(site, site.taken, text)
            else:
                yield None

    def _is_blocked(self, site: Site) -> bool:
        """Whether it is known what its mail waits for."""
        return (
            site.is_full
            or site.is_full_everywhere
            or site.limited_for_s[0] > 0
            or not self._manager.pool.has_room(site.health)
            or bool(site.hosts.all_marked_until)
        )


def _nobody(_what: str, _for_s: float) -> None:
    """No one wants to know but those who read the log."""
