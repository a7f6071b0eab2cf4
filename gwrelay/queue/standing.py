"""Where each open part of each message stands: it waits, is being relayed, or is held.

In memory, and no lock: both are the Queue's business.  What waits is a few numbers here, and
becomes a Delivery when its turn comes, from the message's newest state.
"""

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gwrelay.errors import AccountingError, StoreDamaged
from gwrelay.message.envelope import message_name
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.schedule import Entry, Marked, Schedule
from gwrelay.queue.store import Open, State
from gwrelay.queue.violations import Violations

logger = logging.getLogger(__name__)

#: Seconds until a part is looked at again whose message's state makes no sense.
_DAMAGED_RETRY_S = 3600.0

#: Seconds by which the clock may go back without a word.
_CLOCK_SLACK_S = 60.0

#: How a part stands, in a word.
WAITING, RELAYING, HELD = "waiting", "relaying", "held"

#: Message id and part: its first recipient.
Key = tuple[int, int]


class Counts(NamedTuple):
    """Parts in each state."""

    waiting: int
    relaying: int
    held: int


class Part(NamedTuple):
    """An open part of a message, as it stands."""

    message_id: int
    #: WAITING, RELAYING or HELD.
    word: str
    #: As the log has it.  While it waits for a host that is down, that may be past its due_at.
    open: Open
    #: Unix seconds.
    arrived_at: float
    is_bounce: bool
    #: What is under way, for one that is being relayed.
    delivery: Delivery | None


class Standing:
    """`state_of` gives a message's newest state, None when it is gone; or StoreDamaged."""

    def __init__(self, state_of: Callable[[int], State | None], violations: Violations) -> None:
        self._state_of = state_of
        self._violations = violations
        self.schedule = Schedule()
        #: Deliveries in the schedule whose message is not gone.
        self.waiting = 0
        #: Entries of the schedule for those that forget() has ended.
        self._over = 0
        self._relaying: dict[Key, Delivery] = {}
        self._held: set[Key] = set()
        self._newest_now = 0.0

    def __len__(self) -> int:
        """Deliveries that are not done."""
        return self.waiting + len(self._relaying) + len(self._held)

    @property
    def next_due_at(self) -> float | None:
        return self.schedule.next_due_at

    @property
    def counts(self) -> Counts:
        return Counts(self.waiting, len(self._relaying), len(self._held))

    def word(self, message_id: int, part: Open) -> str:
        """WAITING, RELAYING or HELD.  `part` is open, and was filed."""
        return self.word_of((message_id, part.recipients[0]))

    def word_of(self, key: Key) -> str:
        if key in self._relaying:
            return RELAYING
        return HELD if key in self._held else WAITING

    def parts(self, message_id: int, state: State) -> list[Part]:
        """All that is open of a message, which was filed; in the order of its recipients, as an
        attempt that ends brings its part to the end of the state."""
        return [
            Part(
                message_id,
                self.word(message_id, part),
                part,
                state.arrived_at,
                state.is_bounce,
                self._relaying.get((message_id, part.recipients[0])),
            )
            for part in in_order(state)
        ]

    def relaying(self) -> list[Delivery]:
        return list(self._relaying.values())

    def held(self) -> list[int]:
        """Ids of messages of which a part is held, oldest first."""
        return sorted({message_id for message_id, _ in self._held})

    def file_first(self, message_id: int, parts: Iterable[Open]) -> None:
        """Let these, which are due, be taken before all that waits already."""
        for part in parts:
            self.schedule.add_first(part.due_at, message_id, part.recipients[0])
            self.waiting += 1

    def file(self, message_id: int, parts: Iterable[Open]) -> None:
        """Let these wait, or be held, as they say."""
        for part in parts:
            if part.held:
                self._held.add((message_id, part.recipients[0]))
            else:
                self.schedule.add(part.due_at, message_id, part.recipients[0])
                self.waiting += 1

    def wait(self, due_at: float, delivery: Delivery) -> None:
        """`delivery` waits (again); hasten() finds it by `delivery.entry`."""
        delivery.entry = self.schedule.add_known(due_at, delivery.message_id, delivery.part)
        self.waiting += 1

    def file_again(self, delivery: Delivery, parts: Iterable[Open]) -> None:
        """What stays of `delivery`, which ended; that which waits is found by hasten()."""
        for part in parts:
            if part.held:
                self._held.add((delivery.message_id, part.recipients[0]))
            else:
                delivery.entry = self.schedule.add_known(
                    part.due_at, delivery.message_id, part.recipients[0]
                )
                self.waiting += 1

    def waits(self, entry: int) -> bool:
        return self.schedule.knows(entry)

    def hasten(self, entry: int, due_at: float, message_id: int, part: int) -> bool:
        return self.schedule.hasten(entry, due_at, message_id, part)

    def take_due(self, now: float, limit: int) -> list[Delivery]:
        """At most `limit` that are due; they are being relayed from now on."""
        taken: list[Delivery] = []
        wanted = limit
        while wanted:
            due = self.schedule.take_due(now, wanted)
            for entry in due:
                delivery = self._take(entry, now)
                if delivery is not None:
                    taken.append(delivery)
            # Those passed over make room for others, if any are due.
            wanted = limit - len(taken) if len(due) == wanted else 0
        return taken

    def begin(self, delivery: Delivery) -> None:
        self._relaying[delivery.message_id, delivery.part] = delivery

    def is_relaying(self, delivery: Delivery) -> bool:
        return self._relaying.get((delivery.message_id, delivery.part)) is delivery

    def check_relaying(self, delivery: Delivery) -> None:
        """Raises AccountingError when it is not."""
        if not self.is_relaying(delivery):
            raise AccountingError(f"{delivery} is not being relayed")

    def end(self, delivery: Delivery) -> None:
        self._relaying.pop((delivery.message_id, delivery.part), None)

    def forget(self, message_id: int, parts: Iterable[Open]) -> None:
        """These are not open any more, wherever they stand.

        Those that wait stay in the schedule until they are due, and are passed over then.
        """
        for part in parts:
            key = message_id, part.recipients[0]
            if self._relaying.pop(key, None) is not None:
                continue
            if key in self._held:
                self._held.discard(key)
            else:
                self.waiting -= 1
                self._over += 1

    def hold(self, message_id: int, part: Open) -> None:
        """One that waits does so no more."""
        self.schedule.remove(message_id, part.recipients[0])
        self.waiting -= 1
        self._held.add((message_id, part.recipients[0]))

    def release(self, message_id: int, part: Open) -> None:
        """One that is held waits, as it says now."""
        self._held.discard((message_id, part.recipients[0]))
        self.file(message_id, (part,))

    def recall(self, message_id: int, part: Open) -> bool:
        """Let one that is being relayed wait, if it is only ready for that; whether it does."""
        delivery = self._relaying.get((message_id, part.recipients[0]))
        if delivery is None or delivery.recall is None or not delivery.recall(delivery):
            return False
        self.end(delivery)
        self.file(message_id, (part,))
        return True

    def put_forward(self, message_id: int, part: Open) -> None:
        """One that waits does so until part.due_at instead."""
        self.schedule.remove(message_id, part.recipients[0])
        self.schedule.add(part.due_at, message_id, part.recipients[0])

    # -- what may not be, and selfcheck.py looks for ---------------------------------------------

    def elsewhere(self) -> list[Key]:
        """Those that are being relayed or held."""
        return [*self._relaying, *self._held]

    def elsewhere_too(self, entries: Iterable[Marked]) -> list[Marked]:
        """Those of these entries in the schedule whose part is being relayed or held."""
        relaying, held = self._relaying, self._held
        return [one for one in entries if one[1:] in relaying or one[1:] in held]

    def strike(self, key: Key) -> None:
        """It is neither being relayed nor held."""
        self._relaying.pop(key, None)
        self._held.discard(key)

    def file_lost(self, message_id: int, part: Open) -> None:
        """One that waits has lost its entry in the schedule."""
        self.schedule.add(part.due_at, message_id, part.recipients[0])

    def recount(self, parts: int) -> None:
        """So many are open in all."""
        self.waiting += parts - len(self)

    @property
    def surplus(self) -> int:
        """Entries in the schedule that nothing accounts for; below 0: that are missing."""
        return len(self.schedule) - self.waiting - self._over

    def account_for(self, surplus: int) -> None:
        """Let these be for parts that are over: they will be passed over."""
        self._over += surplus

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
        self.schedule.hasten_all(latest)

    def _take(self, entry: Entry, now: float) -> Delivery | None:
        """The delivery whose turn has come; None for what waits no more."""
        due_at, message_id, number = entry
        try:
            state = self._state_of(message_id)
        except StoreDamaged as error:
            logger.error("message %s: %s", message_name(message_id), error)
            self.schedule.add(now + _DAMAGED_RETRY_S, message_id, number)
            return None
        part = None if state is None else _part(state, number)
        if state is None or part is None:
            self._over -= 1
            return None
        if (key := (message_id, number)) in self._relaying or key in self._held:
            # It would be delivered twice.
            found = f"it was due though it is {self.word(message_id, part)}"
            self._violations.note_part(message_id, number, found, "passed over")
            return None
        self.waiting -= 1
        if part.held:
            self._held.add(key)
            return None
        delivery = delivery_of(message_id, state, part, due_at)
        # No message is from the future.
        delivery.arrived_at = min(delivery.arrived_at, now)
        self._relaying[key] = delivery
        return delivery


def _part(state: State, number: int) -> Open | None:
    for part in state.open:
        if part.recipients[0] == number:
            return part
    return None


def in_order(state: State) -> list[Open]:
    """What is open, by the first recipient."""
    return sorted(state.open, key=lambda part: part.recipients[0])


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
        state.sender,
    )
