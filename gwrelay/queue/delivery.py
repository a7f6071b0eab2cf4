"""A delivery: the part of one message that is under way to one destination.

Built from the message's state when its turn comes; no envelope, no content: the store gives
both back.
"""

from collections.abc import Callable

from gwrelay.queue.store import Doubt


class Delivery:
    __slots__ = (
        "arrived_at",
        "attempts",
        "destination",
        "doubt",
        "due_at",
        "entry",
        "is_bounce",
        "message_id",
        "part",
        "recall",
        "recipients",
        "sender",
    )

    def __init__(
        self,
        message_id: int,
        destination: str,
        recipients: tuple[int, ...],
        arrived_at: float,
        is_bounce: bool,
        attempts: int = 0,
        due_at: float = 0.0,
        doubt: Doubt | None = None,
        sender: int = 0,
    ) -> None:
        self.message_id = message_id
        #: Domain, lower case; or an address literal in brackets.
        self.destination = destination
        #: Indexes into the envelope's recipients, those still open.
        self.recipients = recipients
        #: Which part of the message: its first recipient.
        self.part = recipients[0]
        #: Unix seconds.
        self.arrived_at = arrived_at
        self.is_bounce = is_bounce
        #: Attempts that ended; the one under way is not counted.
        self.attempts = attempts
        #: Unix seconds.
        self.due_at = due_at
        #: Number of its entry in the schedule, when it was put back there; see Queue.hasten().
        self.entry = 0
        #: Where it may have been delivered before; that host is asked first.
        self.doubt = doubt
        #: A number for whom it comes from: senders take turns.
        self.sender = sender
        #: While it is being relayed only in so far as it is ready for that: gives it back, and says
        #: whether it did.
        self.recall: Callable[[Delivery], bool] | None = None

    @property
    def turn(self) -> int:
        """Whose turn it goes by: its sender's, but bounces, whoever they are for, are one of their
        own.  Senders are numbered from 0."""
        return -1 if self.is_bounce else self.sender

    def __repr__(self) -> str:
        return f"<Delivery {self.message_id} to {self.destination} {self.recipients}>"
