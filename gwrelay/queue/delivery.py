"""A delivery: the part of one message that waits for one destination.

Many of these stay in memory for as long as a destination is down, so: slots, no
envelope, no content; the store gives both back when the delivery's turn comes.
"""

from typing import NamedTuple


class Doubt(NamedTuple):
    """Where recipients of a delivery are in doubt: the final dot was sent there, and no reply
    came.  Atoms only, so that it can be written down."""

    exchange: str
    address: str
    #: 0 for the port that exchanges found by MX have.
    port: int
    #: Indexes into the envelope's recipients.
    recipients: tuple[int, ...]


class Delivery:
    __slots__ = (
        "arrived_at",
        "attempts",
        "destination",
        "doubts",
        "due_at",
        "is_bounce",
        "message_id",
        "recipients",
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
        doubts: tuple[Doubt, ...] = (),
    ) -> None:
        self.message_id = message_id
        #: Domain, lower case; or an address literal in brackets.
        self.destination = destination
        #: Indexes into the envelope's recipients, those still open.
        self.recipients = recipients
        #: Unix seconds.
        self.arrived_at = arrived_at
        self.is_bounce = is_bounce
        #: Attempts that ended; the one under way is not counted.
        self.attempts = attempts
        #: Unix seconds.
        self.due_at = due_at
        #: What the last attempt left in doubt; the next one asks these hosts first.
        self.doubts = doubts

    def __repr__(self) -> str:
        return f"<Delivery {self.message_id} to {self.destination} {self.recipients}>"
