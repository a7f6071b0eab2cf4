"""Whether every delivery that is being relayed is in somebody's hands, once; and whether every site
with mail is seen to.

What nobody has would never be relayed, nor looked for, until the next start; mail of a site that
nobody looks at again waits for as long: bugs, to be told, counted and put right.  The Queue's
part of the self-check is selfcheck.py's.

Mail moves meanwhile, so one look proves nothing: a delivery may be on its way to a relayer that
was woken and has not run yet, or have gone from where the look was still to come to where it had
been.  Neither lasts: what is wrong in three looks in a row, a moment apart, is wrong.  The first
two go in steps, along the way that deliveries take; the last, rarely made, in one go.
"""

import logging
import threading
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import NamedTuple

from gwrelay.errors import AccountingError
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.manager import SmartHostSMTPRelayingManager
from gwrelay.relay.site import Site

logger = logging.getLogger(__name__)

#: Seconds between two checks.
_EVERY_S = 60.0
#: Seconds between two looks, and between two steps of one.
_MOMENT_S, _PAUSE_S = 1.0, 0.05
_LOOKS = 3
#: Deliveries in one step, an owner counting as some more of them: about a millisecond.
_DELIVERIES_AT_ONCE, _OWNER = 5000, 10


class Odd(NamedTuple):
    """What looks wrong."""

    #: Deliveries in nobody's hands, and in those of several.
    lost: frozenset[Delivery]
    shared: frozenset[Delivery]
    #: Sites that have mail, and that nobody looks at.
    forgotten: frozenset[Site]

    def still(self, later: "Odd") -> "Odd":
        """What is so `later`, too."""
        return Odd(
            self.lost & later.lost, self.shared & later.shared, self.forgotten & later.forgotten
        )


class Owners:
    def __init__(self, manager: SmartHostSMTPRelayingManager) -> None:
        self._manager = manager
        self._queue = manager.queue

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set."""
        while not stop.wait(_EVERY_S):
            try:
                for pause_s in self.check():
                    if stop.wait(pause_s):
                        return
            except Exception:
                logger.exception("self-check")

    def check(self) -> Iterator[float]:
        """One check, step by step: so many seconds are to pass before the next.  When it is over,
        what was wrong has been put right."""
        odd = yield from self._look(self._queue.get_relaying())
        for n in range(2, _LOOKS + 1):
            if not any(odd) or self._manager.is_stopping:
                return
            yield _MOMENT_S
            look = self._look(list(odd.lost), among=odd.lost | odd.shared, in_one_go=n == _LOOKS)
            odd = odd.still((yield from look))
        self._put_right(odd)

    def _look(
        self,
        relaying: Sequence[Delivery],
        *,
        among: Collection[Delivery] | None = None,
        in_one_go: bool = False,
    ) -> Generator[float, None, Odd]:
        """Who has those that were being relayed when it began, and who shares any; no other ones
        than those `among`, if given, are looked for."""
        found: set[Delivery] = set()
        twice: set[Delivery] = set()
        forgotten: set[Site] = set()
        count = 0
        for site, deliveries in self._owners():
            some = Counter(one for one in deliveries if among is None or one in among)
            twice.update(one for one, times in some.items() if times > 1 or one in found)
            found.update(some)
            if site is not None and self._manager.sites.is_forgotten(site):
                forgotten.add(site)
            count += len(deliveries) + _OWNER
            if count > _DELIVERIES_AT_ONCE and not in_one_go:
                count = 0
                yield _PAUSE_S
        lost: list[Delivery] = []
        for at in range(0, len(relaying), _DELIVERIES_AT_ONCE):
            unfound = [one for one in relaying[at : at + _DELIVERIES_AT_ONCE] if one not in found]
            lost += filter(self._queue.is_relaying, unfound)
            if not in_one_go:
                yield _PAUSE_S
        return Odd(frozenset(lost), frozenset(twice), frozenset(forgotten))

    def _owners(self) -> Iterator[tuple[Site | None, list[Delivery]]]:
        """Everybody who has deliveries, and them, on their way from the queue to a next hop; which
        site, where it is one."""
        manager = self._manager
        yield None, self._queue.being_taken
        for _, gathering in manager.lookups():
            yield None, gathering.deliveries
        yield None, list(manager.transit)
        for site in manager.sites:
            yield site, list(site.ready)
        for relayer, attempts in list(manager.managed.items()):
            upcoming = relayer.upcoming
            yield (
                None,
                attempts.deliveries if upcoming is None else [*attempts.deliveries, upcoming],
            )

    def _put_right(self, odd: Odd) -> None:
        violations = self._queue.violations
        for delivery in odd.lost:
            try:
                self._queue.set_waiting(delivery)
            except AccountingError:
                continue  # somebody has just brought it back
            violations.note_part(
                delivery.message_id, delivery.part, "is being relayed by nobody", "waits again"
            )
        for delivery in odd.shared:
            violations.note_part(
                delivery.message_id, delivery.part, "is in several hands", "left alone"
            )
        for site in odd.forgotten:
            self._manager.sites.remember(site)
            ready, parked = len(site.ready), len(site.parked)
            violations.note(
                f"{site.name} has {ready} deliveries ready and {parked} parked, and nobody to see "
                "to them",
                "looked at now",
            )
