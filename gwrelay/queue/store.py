"""The contract between the Queue and whatever keeps its messages.

A store keeps, for each message: its envelope and content, which never change, and its
*state*, which says what is still open and is replaced as a whole.  Pure: no backend here.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgpack

from gwrelay.errors import StoreDamaged
from gwrelay.message.envelope import Envelope, Message, Recipient

#: One recipient, as most messages have: by far the most frequent of all.
_FIRST_ALONE = (0,)


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
    #: An attempt has ended so.  False: noted before the dot, and nobody knows yet that no answer
    #: came, as after a crash.
    told: bool = True


class Open(NamedTuple):
    """A part of a message that waits for one destination, or is on hold.

    No two parts of a message share a recipient, so the first one names its part.
    """

    destination: str
    #: Indexes into the envelope's recipients; at least one.
    recipients: tuple[int, ...]
    attempts: int
    #: Unix seconds; survives a restart.
    due_at: float
    #: Why it is on hold, not to be tried until it is released; "": it is not.
    held: str = ""
    doubt: Doubt | None = None
    #: Its sender was told that it is delayed, as far as he wants to know, and is not told again.
    warned: bool = False


class State(NamedTuple):
    """What is open of a message; no part left means the message is gone."""

    arrived_at: float
    #: Null reverse-path: shorter lifetime, never bounced (RFC 5321 4.5.5).
    is_bounce: bool
    open: tuple[Open, ...]
    #: A number for whom it comes from; see senders.py.
    sender: int = 0


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

    def load(self) -> Iterator[list[tuple[int, State]]]:
        """Every message that is ours at start, in small lists, oldest first.  One that was
        given out may be settled at once; those accepted meanwhile may be among them."""

    def ids(self) -> Iterator[list[int]]:
        """Every message there is, in small lists, oldest first.  One that comes or goes meanwhile
        may be left out; so may, while load() is not at its end, what that has not given out."""

    def state(self, message_id: int) -> State | None:
        """The newest state, durable or not; None when the message is gone.  Costs no disk
        access.  Raises StoreDamaged when it makes no sense."""

    def message(self, message_id: int) -> Message:
        """Raises StoreFailed when it is gone or cannot be read, StoreDamaged when what is
        read is not what was written."""

    def content(self, message_id: int) -> Iterator[bytes]:
        """Likewise.  Never yields a byte that failed its checksum."""

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        """Replace the state, or drop the message (None), and add the DSN it causes: one
        record, so that after a crash both happened or neither.

        Does not wait for a sync, and is never refused: a disk that is full gets it later.
        Until flush() the report cannot be read back."""

    def note(self, message_id: int, state: State) -> None:
        """Replace the state by what a crash of this process may not forget, in the middle of
        an attempt: on return the system has it.  A power cut may forget it until the next
        commit: it waits for one only where there is no room to write it at once.  StoreFailed."""

    def note_at_once(self, message_id: int, state: State) -> bool:
        """As note(), without letting anybody else run meanwhile.  → False where it is not done
        yet: it is when the next flush() returns."""

    def flush(self) -> None:
        """All that was settled so far is durable on return; StoreFull, StoreFailed if not."""

    def close(self) -> None: ...


#: A NamedTuple from all its fields.  Calling the class is Python of its own.
_new = tuple.__new__
#: One for all: a new one costs more than what it packs.
_pack = msgpack.Packer(autoreset=True).pack


def encode_state(state: State) -> bytes:
    """msgpack [arrived_at, kind, part, ...].  `kind` is is_bounce, or 2 * sender + is_bounce where
    that is known.  A part is [destination, recipients, attempts,
    due_at, held, exchange, address, port, since, told], without the end of it that is as at first;
    one that is `warned` has the complement of `attempts`, which is below zero.

    One of these stays in memory for each message that waits: hence neither names nor defaults.
    `recipients` is a number when they are the first so many, as for one destination.
    """
    arrived_at, is_bounce, parts, sender = state
    kind = 2 * sender + is_bounce if sender else is_bounce
    if len(parts) == 1:
        packed: bytes = _pack((arrived_at, kind, _flattened(parts[0], arrived_at)))
    else:
        packed = _pack((arrived_at, kind, *[_flattened(part, arrived_at) for part in parts]))
    return packed


def decode_state(packed: bytes) -> State:
    """Raises StoreDamaged for what encode_state() does not write."""
    try:
        flat = msgpack.unpackb(packed, use_list=False)
        arrived_at, kind = flat[0], flat[1]
        if len(flat) == 3:
            # A million of these are read at a start.
            parts: tuple[Open, ...] = (_unflattened(arrived_at, flat[2]),)
        else:
            parts = tuple([_unflattened(arrived_at, part) for part in flat[2:]])
        if type(kind) is bool:
            return _new(State, (arrived_at, kind, parts, 0))
        return _new(State, (arrived_at, bool(kind & 1), parts, kind >> 1))
    except (ValueError, TypeError, IndexError) as error:
        raise StoreDamaged(f"the state makes no sense: {error}") from error


def _flattened(part: Open, arrived_at: float) -> tuple[object, ...]:
    destination, recipients, attempts, due_at, held, doubt, warned = part
    if warned:
        attempts = ~attempts
    count = len(recipients)
    is_first = recipients == (_FIRST_ALONE if count == 1 else _first_recipients(count))
    who = count if is_first else recipients
    if doubt is not None:
        untold = () if doubt.told else (False,)
        return destination, who, attempts, due_at, held, *doubt.host, doubt.since, *untold
    if held:
        return destination, who, attempts, due_at, held
    if attempts or due_at != arrived_at:
        return destination, who, attempts, due_at
    return destination, who


def _unflattened(arrived_at: float, flat: Sequence[Any]) -> Open:
    who = flat[1]
    recipients = _FIRST_ALONE if who == 1 else _first_recipients(who) if type(who) is int else who
    if len(flat) == 2:
        return Open(flat[0], recipients, 0, arrived_at)
    attempts = flat[2]
    warned = attempts < 0
    if warned:
        attempts = ~attempts
    if len(flat) == 4:
        return _new(Open, (flat[0], recipients, attempts, flat[3], "", None, warned))
    doubt = _doubt(*flat[5:]) if len(flat) > 5 else None
    return Open(flat[0], recipients, attempts, flat[3], flat[4], doubt, warned)


def _first_recipients(count: int) -> tuple[int, ...]:
    return _FIRST_ALONE if count == 1 else tuple(range(count))


def _doubt(exchange: str, address: str, port: int, since: float, told: bool = True) -> Doubt:
    return Doubt(Host(exchange, address, port), since, told)


def encode_message(message: Message) -> bytes:
    packed: bytes = _pack(message)
    return packed


def decode_message(packed: bytes) -> Message:
    """Raises StoreDamaged for what encode_message() does not write."""
    try:
        message_id, arrived_at, size_bytes, envelope = msgpack.unpackb(packed, use_list=False)
        reverse_path, recipients, *rest = envelope
        everybody = tuple(Recipient(*recipient) for recipient in recipients)
        return Message(message_id, arrived_at, size_bytes, Envelope(reverse_path, everybody, *rest))
    except (ValueError, TypeError) as error:
        raise StoreDamaged(f"the envelope makes no sense: {error}") from error


def first_state(message: Message, sender: int = 0) -> State:
    """One part for each destination, all of them due at once."""
    recipients, now = message.envelope.recipients, message.arrived_at
    if len(recipients) == 1:
        alone = recipients[0].domain, _FIRST_ALONE, 0, now, "", None, False
        parts: tuple[Open, ...] = (_new(Open, alone),)
    else:
        by_destination: dict[str, list[int]] = {}
        for n, recipient in enumerate(recipients):
            by_destination.setdefault(recipient.domain, []).append(n)
        parts = tuple([Open(name, tuple(who), 0, now) for name, who in by_destination.items()])
    return _new(State, (now, not message.envelope.reverse_path, parts, sender))
