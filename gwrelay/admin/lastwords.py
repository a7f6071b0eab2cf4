"""What the next hops said last, of as much mail as there is room for.

In memory alone: empty after a restart.  The log keeps what mail does next; why is told by the
events, and here to those who ask at the control socket.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gwrelay.message.outcome import Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Settled

#: Parts of messages of which is remembered what was said.
_PARTS = 10_000
#: Different answers to the recipients of one part.
_ANSWERS = 3


class Said(NamedTuple):
    """`exchange` and `address` are "" where nobody was reached: then it is our own word."""

    stage: str
    exchange: str
    address: str
    reply: str

    def __str__(self) -> str:
        return f"{self.exchange}[{self.address}]: {self.reply}" if self.exchange else self.reply


class Attempt(NamedTuple):
    """One that ended, and left something open."""

    number: int
    #: Unix seconds.
    ended_at: float
    said: tuple[Said, ...]
    #: What each recipient was told, if all were told the same.
    outcome: Outcome | None


class LastWords:
    """The last attempt of each part, the oldest forgotten beyond `limit` of them."""

    def __init__(self, limit: int = _PARTS) -> None:
        self._limit = limit
        #: By message id and part.
        self._attempts: dict[tuple[int, int], Attempt] = {}

    def note(
        self,
        delivery: Delivery,
        number: int,
        told: Mapping[int, Outcome],
        settled: Settled,
        now: float,
    ) -> None:
        """An attempt ended: as relay's Ended.  Costs next to nothing where all was delivered."""
        if self._attempts:
            self._attempts.pop((delivery.message_id, delivery.part), None)
        for part in settled.settlement.remaining:
            outcomes = dict.fromkeys(told[n] for n in part.recipients)
            first, *others = outcomes
            key = delivery.message_id, part.recipients[0]
            said = _answers(outcomes)
            self._attempts[key] = Attempt(number, now, said, None if others else first)
            if len(self._attempts) > self._limit:
                del self._attempts[next(iter(self._attempts))]

    def of(self, message_id: int, part: int) -> Attempt | None:
        """None: there was none since the start, or it is forgotten."""
        return self._attempts.get((message_id, part))

    def outcome_of(self, message_id: int, part: int) -> Outcome | None:
        """What all of it were told; likewise."""
        last = self.of(message_id, part)
        return None if last is None else last.outcome


def _answers(told: Iterable[Outcome]) -> tuple[Said, ...]:
    """Those that differ, in the recipients' order."""
    answers = dict.fromkeys(
        Said(one.stage, one.exchange, one.address, str(one.reply)) for one in told
    )
    return tuple(answers)[:_ANSWERS]
