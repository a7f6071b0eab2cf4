"""What the load generator is to hand in, and how its sink is to take it: values, no sockets."""

from typing import NamedTuple


class Load(NamedTuple):
    """`messages`, over `sessions` at a time."""

    messages: int
    size_bytes: int
    sessions: int
    #: Messages after which a session is closed, and another opened; 0: it is kept.
    per_connection: int = 0
    #: Each has its time, whatever became of those before; 0: as soon as a session was answered.
    rate_per_s: float = 0.0
    #: They are for so many in turn, d0.example and so on; 0: for sink.example.
    domains: int = 0
    #: STARTTLS first, and nothing without.
    encrypts: bool = False
    #: TLS from the first byte.
    encrypts_at_once: bool = False
    #: Envelopes leave in one write where that is offered.
    pipelines: bool = True

    def due_at(self, number: int, began_at: float) -> float:
        """When a message should begin."""
        return began_at + number / self.rate_per_s if self.rate_per_s else began_at

    def domain(self, number: int) -> str:
        return f"d{number % self.domains}.example" if self.domains else "sink.example"


class Reception(NamedTuple):
    """Where and how mail is taken."""

    addresses: tuple[str, ...] = ("127.0.0.1",)
    #: Of all of them; 0: any that is free.
    port: int = 0
    #: Until each reply; commands that came together share one, as they would a round trip.
    delay_s: float = 0.0
    #: A file with certificate and key; "": STARTTLS is not offered, else demanded.
    certificate: str = ""
