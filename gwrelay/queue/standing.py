"""Where each open part of each message stands: it waits, is being relayed, or is held.

In memory, and no lock: both are the Queue's business.  What waits is a few numbers here, and
becomes a Delivery when its turn comes, from the message's newest state.
"""

import logging
from collections.abc import Callable, Iterable

from gwrelay.errors import AccountingError, StoreDamaged
from gwrelay.message.envelope import message_name
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.schedule import Entry, Schedule
from gwrelay.queue.store import Open, State

logger = logging.getLogger(__name__)

#: Seconds until a part is looked at again whose message's state makes no sense.
_DAMAGED_RETRY_S = 3600.0

#: Seconds by which the clock may go back without a word.
_CLOCK_SLACK_S = 60.0


class Standing:
    """`state_of` gives a message's newest state, None when it is gone; or StoreDamaged."""

    def __init__(self, state_of: Callable[[int], State | None]) -> None:
        self._state_of = state_of
        self._schedule = Schedule()
        #: Deliveries in the schedule whose message is not gone.
        self.waiting = 0
        self._relaying: set[Delivery] = set()
        #: Message id and part.
        self._held: set[tuple[int, int]] = set()
        self._newest_now = 0.0

    def __len__(self) -> int:
        """Deliveries that are not done."""
        return self.waiting + len(self._relaying) + len(self._held)

    @property
    def next_due_at(self) -> float | None:
        return self._schedule.next_due_at

    def relaying(self) -> list[Delivery]:
        return list(self._relaying)

    def held(self) -> list[int]:
        """Ids of messages of which a part is held, oldest first."""
        return sorted({message_id for message_id, _ in self._held})

    def file(self, message_id: int, parts: Iterable[Open]) -> None:
        """Let these wait, or be held, as they say."""
        for part in parts:
            if part.held:
                self._held.add((message_id, part.recipients[0]))
            else:
                self._schedule.add(part.due_at, message_id, part.recipients[0])
                self.waiting += 1

    def wait(self, due_at: float, delivery: Delivery) -> None:
        """`delivery` waits (again); hasten() finds it by `delivery.entry`."""
        delivery.entry = self._schedule.add_known(due_at, delivery.message_id, delivery.part)
        self.waiting += 1

    def file_again(self, delivery: Delivery, parts: Iterable[Open]) -> None:
        """What stays of `delivery`, which ended; that which waits is found by hasten()."""
        for part in parts:
            if part.held:
                self._held.add((delivery.message_id, part.recipients[0]))
            else:
                delivery.entry = self._schedule.add_known(
                    part.due_at, delivery.message_id, part.recipients[0]
                )
                self.waiting += 1

    def waits(self, entry: int) -> bool:
        return self._schedule.knows(entry)

    def hasten(self, entry: int, due_at: float, message_id: int, part: int) -> bool:
        return self._schedule.hasten(entry, due_at, message_id, part)

    def take_due(self, now: float, limit: int) -> list[Delivery]:
        """At most `limit` that are due; they are being relayed from now on."""
        taken: list[Delivery] = []
        wanted = limit
        while wanted:
            due = self._schedule.take_due(now, wanted)
            for entry in due:
                delivery = self._take(entry, now)
                if delivery is not None:
                    taken.append(delivery)
            # Those passed over make room for others, if any are due.
            wanted = limit - len(taken) if len(due) == wanted else 0
        self._relaying.update(taken)
        return taken

    def begin(self, delivery: Delivery) -> None:
        self._relaying.add(delivery)

    def check_relaying(self, delivery: Delivery) -> None:
        """Raises AccountingError when it is not."""
        if delivery not in self._relaying:
            raise AccountingError(f"{delivery} is not being relayed")

    def end(self, delivery: Delivery) -> None:
        self._relaying.discard(delivery)

    def forget(self, message_id: int, parts: int) -> None:
        """A message is gone of which `parts` were filed.

        Those that wait stay in the schedule until they are due, and are passed over then.
        """
        relaying = {d for d in self._relaying if d.message_id == message_id}
        held = {key for key in self._held if key[0] == message_id}
        self._relaying -= relaying
        self._held -= held
        self.waiting -= max(0, parts - len(relaying) - len(held))

    def release(self, message_id: int, state: State) -> list[Open]:
        """Hold nothing of this message any more; the parts that were held."""
        relaying = {d.part for d in self._relaying if d.message_id == message_id}
        parts = [p for p in state.open if p.held and p.recipients[0] not in relaying]
        self._held -= {(message_id, part.recipients[0]) for part in parts}
        return parts

    def has_gone_back(self, now: float) -> bool:
        """Whether the clock was set back since this was last asked."""
        went_back = now < self._newest_now - _CLOCK_SLACK_S
        if went_back:
            logger.warning("the clock went back by %.0f s", self._newest_now - now)
        if went_back or now > self._newest_now:
            self._newest_now = now
        return went_back

    def hasten_all(self, latest: float) -> None:
        """Let nothing wait for longer than until `latest`."""
        self._schedule.hasten_all(latest)

    def _take(self, entry: Entry, now: float) -> Delivery | None:
        """The delivery whose turn has come; None for what waits no more."""
        due_at, message_id, number = entry
        try:
            state = self._state_of(message_id)
        except StoreDamaged as error:
            logger.error("message %s: %s", message_name(message_id), error)
            self._schedule.add(now + _DAMAGED_RETRY_S, message_id, number)
            return None
        if state is None:
            return None
        part = next((part for part in state.open if part.recipients[0] == number), None)
        if part is None:
            return None
        self.waiting -= 1
        if part.held:
            self._held.add((message_id, number))
            return None
        delivery = delivery_of(message_id, state, part, due_at)
        # No message is from the future.
        delivery.arrived_at = min(delivery.arrived_at, now)
        return delivery


def delivery_of(message_id: int, state: State, part: Open, due_at: float) -> Delivery:
    """What `part` of this message becomes when its turn comes."""
    return Delivery(
        message_id,
        part.destination,
        part.recipients,
        state.arrived_at,
        state.is_bounce,
        part.attempts,
        due_at,
        part.doubt,
    )
