"""A Store in a dict: for tests, benches, and for those who can afford to lose mail."""

from collections.abc import Iterator

from gwrelay.errors import StoreFailed
from gwrelay.message.envelope import Message
from gwrelay.queue.store import NewMessage, State


class MemoryStore:
    def __init__(self) -> None:
        self._last_id = 0
        self._messages: dict[int, tuple[Message, list[bytes]]] = {}
        self._states: dict[int, State] = {}
        self._pieces: dict[int, list[bytes]] = {}

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def add_piece(self, message_id: int, number: int, piece: bytes) -> None:
        pieces = self._pieces.setdefault(message_id, [])
        pieces[number:] = [piece]

    def discard(self, message_id: int) -> None:
        self._pieces.pop(message_id, None)

    def accept(self, new: NewMessage) -> None:
        pieces = self._pieces.pop(new.message.id, [])
        self._messages[new.message.id] = (new.message, [*pieces, new.content])
        self._states[new.message.id] = new.state

    def load(self) -> Iterator[list[tuple[int, State]]]:
        yield sorted(self._states.items())

    def ids(self) -> Iterator[list[int]]:
        yield sorted(self._states)

    def state(self, message_id: int) -> State | None:
        return self._states.get(message_id)

    def message(self, message_id: int) -> Message:
        return self._find(message_id)[0]

    def content(self, message_id: int) -> Iterator[bytes]:
        return iter(self._find(message_id)[1])

    def _find(self, message_id: int) -> tuple[Message, list[bytes]]:
        try:
            return self._messages[message_id]
        except KeyError:
            raise StoreFailed(f"message {message_id} is gone") from None

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        if state is None:
            del self._messages[message_id], self._states[message_id]
        else:
            self._states[message_id] = state
        if report is not None:
            self.accept(report)

    def note(self, message_id: int, state: State) -> None:
        self._states[message_id] = state

    def note_at_once(self, message_id: int, state: State) -> bool:
        self.note(message_id, state)
        return True

    def flush(self) -> None:
        """Nothing to do: a dict is as durable as it gets."""

    def close(self) -> None:
        """Nothing to do: what it held goes with it."""
