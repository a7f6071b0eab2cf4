"""The contract between the Queue and whatever keeps its messages.

A store keeps, for each message: its envelope and content, which never change, and its
*state*, which says what is still open and is replaced as a whole.  Pure: no backend here.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgpack

from gwrelay.message.envelope import Envelope, Message, Recipient


class Open(NamedTuple):
    """The part of a message that still waits for one destination."""

    destination: str
    #: Indexes into the envelope's recipients.
    recipients: tuple[int, ...]
    attempts: int
    #: Unix seconds; survives a restart.
    due_at: float


class State(NamedTuple):
    """What is open of a message; no part left means the message is gone."""

    arrived_at: float
    #: Null reverse-path: shorter lifetime, never bounced (RFC 5321 4.5.5).
    is_bounce: bool
    open: tuple[Open, ...]


class NewMessage(NamedTuple):
    message: Message
    state: State
    #: The whole content, or its end when `pieces` earlier parts were added before.
    content: bytes
    pieces: int = 0


class Store(Protocol):
    """What the Queue needs.  `accept` raises StoreFull or StoreFailed and keeps nothing then.

    Methods may block the calling greenlet for a disk write; `accept` and `flush` for a sync.
    """

    def next_id(self) -> int:
        """A message id that was never used, larger than any before it."""

    def add_piece(self, message_id: int, number: int, piece: bytes) -> None:
        """Keep part `number` (from 0) of content too large to hold, until `accept`."""

    def discard(self, message_id: int) -> None:
        """Forget the pieces of a message that will not be accepted."""

    def accept(self, new: NewMessage) -> None:
        """On return the message is durable."""

    def claim(self) -> Iterator[tuple[int, State]]:
        """Every message that is ours at start, oldest first."""

    def message(self, message_id: int) -> Message:
        """Raises StoreFailed when it is gone or cannot be read."""

    def content(self, message_id: int) -> Iterator[bytes]:
        """Likewise.  Never yields a byte that failed its checksum."""

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        """Replace the state, or drop the message (None), and add the DSN it causes: one
        record, so that after a crash both happened or neither.

        Does not wait for a sync, and is never refused: a disk that is full gets it later.
        Until flush() the report cannot be read back."""

    def flush(self) -> None:
        """All that was settled so far is durable on return; StoreFull, StoreFailed if not."""

    def close(self) -> None: ...


def encode_state(state: State) -> bytes:
    packed: bytes = msgpack.packb(state)
    return packed


def decode_state(packed: bytes) -> State:
    arrived_at, is_bounce, parts = msgpack.unpackb(packed, use_list=False)
    return State(arrived_at, is_bounce, tuple(Open(*part) for part in parts))


def encode_message(message: Message) -> bytes:
    packed: bytes = msgpack.packb(message)
    return packed


def decode_message(packed: bytes) -> Message:
    message_id, arrived_at, size_bytes, envelope = msgpack.unpackb(packed, use_list=False)
    reverse_path, recipients, *rest = envelope
    everybody = tuple(Recipient(*recipient) for recipient in recipients)
    return Message(message_id, arrived_at, size_bytes, Envelope(reverse_path, everybody, *rest))


def first_state(message: Message) -> State:
    """One part for each destination, all of them due at once."""
    by_destination: dict[str, list[int]] = {}
    for n, recipient in enumerate(message.envelope.recipients):
        by_destination.setdefault(recipient.domain, []).append(n)
    now = message.arrived_at
    parts = (Open(name, tuple(who), 0, now) for name, who in by_destination.items())
    return State(now, not message.envelope.reverse_path, tuple(parts))
