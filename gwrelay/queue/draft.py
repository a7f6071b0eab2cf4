"""A message in the making: it has an id, and is nothing else until it is accepted."""

from typing import Protocol

from gwrelay.message.envelope import Envelope, Message, message_name
from gwrelay.queue.store import Store


class Accepting(Protocol):
    """The Queue, as far as a draft needs it."""

    def accept(
        self, message_id: int, envelope: Envelope, content: bytes, pieces: int, size_bytes: int
    ) -> Message: ...


class Draft:
    """A message being received; large content is laid aside piece by piece.

    Ends with accept() or abandon(); one that a crash interrupts leaves nothing behind.
    """

    __slots__ = ("_pieces", "_queue", "_size_bytes", "_store", "id", "name")

    def __init__(self, queue: Accepting, store: Store) -> None:
        self.id = store.next_id()
        #: As people see it.
        self.name = message_name(self.id)
        self._queue = queue
        self._store = store
        self._pieces = 0
        self._size_bytes = 0

    @property
    def is_empty(self) -> bool:
        return self._size_bytes == 0

    def add(self, piece: bytes) -> None:
        """Raises StoreFull or StoreFailed."""
        number = self._pieces
        # Counted even if it fails: whoever gives up must tell the store so.
        self._pieces += 1
        self._store.add_piece(self.id, number, piece)
        self._size_bytes += len(piece)

    def accept(self, envelope: Envelope, content: bytes) -> Message:
        """`content` is the rest, or the whole, of the content.  On return the message is
        durable, and ours to deliver or to bounce.  Raises StoreFull or StoreFailed, and then
        it is neither kept nor delivered."""
        size_bytes = self._size_bytes + len(content)
        return self._queue.accept(self.id, envelope, content, self._pieces, size_bytes)

    def abandon(self) -> None:
        if self._pieces:
            self._store.discard(self.id)
            self._pieces = 0
