"""One attempt: a relayer's session, the deliveries it took, and what became of each.

Every delivery a relayer takes must come back here with an outcome for each recipient;
what is left without one is deferred and logged, for that is a bug.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from gwrelay.errors import AccountingError
from gwrelay.message import outcome
from gwrelay.message.outcome import Outcome
from gwrelay.message.reply import Reply
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Queue, Settled
from gwrelay.queue.store import Host
from gwrelay.relay.site import Site

if TYPE_CHECKING:
    from gwrelay.relay.relayer import ManagedRelayerMixin

logger = logging.getLogger(__name__)

_LEFT_BEHIND = Reply(451, "4.3.0", "internal error in the relayer; will be tried again")

#: Seconds until a delivery is tried again whose settlement could not be written.
_UNWRITTEN_RETRY_S = 60.0


class Ended(Protocol):
    """Who wants to know: called once for each delivery whose attempt ended.

    `attempt` counts from 1; `recipients` were open before, `settled` says what is now.
    """

    def __call__(
        self, delivery: Delivery, attempt: int, told: Mapping[int, Outcome], settled: Settled
    ) -> None: ...


class AttemptManager:
    """Accounts for one relayer's deliveries; the relayer tells it what happened."""

    def __init__(
        self,
        queue: Queue,
        site: Site,
        *,
        ended: Ended,
        no_connection: Callable[[Site, Delivery, Outcome], None],
        done: Callable[["ManagedRelayerMixin"], None],
    ) -> None:
        self._queue = queue
        self.site = site
        self._ended = ended
        self._no_connection = no_connection
        self._done = done
        #: What the relayer has taken and not yet told about.
        self.in_hand: Delivery | None = None
        #: What it has been given to begin with, and has not taken yet; and that which it has told
        #: about, until the queue knows.
        self.coming: Delivery | None = None
        self.ending: Delivery | None = None
        #: When it took that (monotonic).
        self.since = 0.0
        #: Whom the log has it in doubt at since this attempt began.
        self._noted: Host | None = None
        #: Set when the relayer's session is over and everything it took is settled.
        self.completed = threading.Event()

    def take(self, delivery: Delivery) -> bool:
        """The relayer begins with `delivery`.  False when it must not, for that is not being
        relayed any more: it was dropped, or waits again."""
        self.coming = None
        if not self._queue.is_relaying(delivery):
            self.site.pace.refund(delivery)
            return False
        self.in_hand = delivery
        self.since = time.monotonic()
        self._noted = None
        return True

    @property
    def deliveries(self) -> list[Delivery]:
        """All that the relayer has, but for one it took early."""
        return [one for one in (self.coming, self.in_hand, self.ending) if one is not None]

    def give_back(self, delivery: Delivery) -> None:
        """The relayer took `delivery` from the site, and will not begin with it."""
        self.site.pace.refund(delivery)
        self._queue.set_waiting(delivery)

    def note_in_doubt(self, host: Host) -> None:
        """The final dot is about to be sent to `host`, which may have the delivery from then
        on, whatever is heard of it.  Once for each host is enough.

        Raises StoreFailed when that cannot be noted: then the dot must not be sent.
        """
        if self.in_hand is not None and host != self._noted:
            self._queue.note_in_doubt(self.in_hand, host)
            self._noted = host

    def is_noted(self, host: Host) -> bool:
        return host == self._noted

    def notify_success(
        self, relayer: "ManagedRelayerMixin", delivery: Delivery, told: Mapping[int, Outcome]
    ) -> None:
        """Every recipient was delivered."""
        self._settle(delivery, told)
        self._note_answer(throttled=False)

    def notify_failure(
        self, relayer: "ManagedRelayerMixin", delivery: Delivery, told: Mapping[int, Outcome]
    ) -> None:
        """A next hop was reached, and not every recipient was delivered."""
        self._settle(delivery, told)
        heard = [verdict.reply for verdict in told.values() if verdict.heard]
        if heard:
            self._note_answer(throttled=any(map(outcome.is_throttling, heard)))

    def notify_no_connection(
        self, relayer: "ManagedRelayerMixin", delivery: Delivery, why: Outcome
    ) -> None:
        """No host of the site could be reached: whatever waits for it waits in vain.

        Unless others are being served: then it is left to these, and this was no attempt.
        """
        if self.site.still_works:
            self.in_hand = None
            self.site.put_back(delivery)
        else:
            self._settle(delivery, dict.fromkeys(delivery.recipients, why))
        self._no_connection(self.site, delivery, why)

    def notify_done(self, relayer: "ManagedRelayerMixin") -> None:
        """The relayer's session is over.

        One that was stopped may leave a delivery behind: that stays as it was before its
        attempt, in memory and in the log.  Otherwise it is a bug, and the delivery waits.
        """
        try:
            if self.in_hand is not None and not relayer.stopping:
                self._settle(self.in_hand, {})
        finally:
            self._done(relayer)
            self.completed.set()

    def _note_answer(self, *, throttled: bool) -> None:
        self.site.note_success(time.monotonic() - self.since, throttled=throttled)

    def _settle(self, delivery: Delivery, told: Mapping[int, Outcome]) -> None:
        if delivery is not self.in_hand:
            raise AccountingError(f"{delivery} was not in hand")
        self.in_hand, self.ending = None, delivery
        try:
            self._settle_as_told(delivery, told)
        finally:
            self.ending = None

    def _settle_as_told(self, delivery: Delivery, told: Mapping[int, Outcome]) -> None:
        if told.keys() != set(delivery.recipients):
            logger.error("relayer ended %s with outcomes for %s", delivery, sorted(told))
            left_behind = outcome.of_ours(outcome.CONNECT, _LEFT_BEHIND)
            told = {n: told.get(n, left_behind) for n in delivery.recipients}
        settle(self._queue, delivery, told, self._ended)


def settle(queue: Queue, delivery: Delivery, told: Mapping[int, Outcome], ended: Ended) -> None:
    """Settle `delivery` and tell `ended`; when that cannot be written, try it all again.

    Delivering twice is permitted then, forgetting is not.  Raises AccountingError when it is
    not being relayed.
    """
    attempt = delivery.attempts + 1
    try:
        settled = queue.settle(delivery, told)
    except AccountingError:
        raise
    except Exception:
        logger.exception("%s could not be settled", delivery)
        queue.defer(delivery, _UNWRITTEN_RETRY_S)
        return
    try:
        ended(delivery, attempt, told, settled)
    except Exception:
        logger.exception("telling how %s ended", delivery)
