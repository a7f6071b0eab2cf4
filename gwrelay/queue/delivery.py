"""A delivery: the part of one message that waits for one destination.

Many of these stay in memory for as long as a destination is down, so: slots, no
envelope, no content; the store gives both back when the delivery's turn comes.
"""

from typing import NamedTuple


class Host(NamedTuple):
    """One address of a next hop."""

    #: Its name.
    exchange: str
    address: str
    #: 0: the usual one.
    port: int = 0


class Doubt(NamedTuple):
    """The final dot was sent to `host` and no answer came: it may have been delivered there
    (RFC 5321 4.5.3.2.6)."""

    host: Host
    #: Unix seconds.
    since: float


class Delivery:
    __slots__ = (
        "arrived_at",
        "attempts",
        "destination",
        "doubt",
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
        doubt: Doubt | None = None,
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
        #: Where it may have been delivered before; that host is asked first.
        self.doubt = doubt

    def __repr__(self) -> str:
        return f"<Delivery {self.message_id} to {self.destination} {self.recipients}>"
