"""What a store held when it was opened, on its way into the queue, list by list.

Mail is accepted, settled and dropped meanwhile; this keeps each message from being filed
twice, and from being filed after its end.
"""

import sys

from gwrelay.errors import StoreFailed
from gwrelay.queue.store import State, Store


class Loading:
    """Messages of an id from `until` on are none of its business: they came later."""

    def __init__(self, store: Store, until: int = sys.maxsize) -> None:
        self._store = store
        self._until = until
        self._lists = store.load()
        #: All of an id up to this one have been given out, or were not there.
        self._reached = -1
        #: Dealt with before their turn came.
        self._overtaken: set[int] = set()
        self.messages = 0
        self.is_complete = False

    def next_list(self) -> list[tuple[int, State]]:
        """What is to be filed next.  Raises StoreFailed; the next call goes on after that."""
        try:
            found = next(self._lists, None)
        except StoreFailed:
            self._lists = self._store.load()
            raise
        if found is None:
            self.is_complete = True
            self._overtaken.clear()
            return []
        if not found:
            return found
        first, last = found[0][0], found[-1][0]
        if self._overtaken or first <= self._reached or last >= self._until:
            found = [(n, state) for n, state in found if self.awaits(n)]
        self._reached = max(self._reached, last)
        self.messages += len(found)
        return found

    def awaits(self, message_id: int) -> bool:
        """Whether this message was there at the start, and has not been given out."""
        return (
            not self.is_complete
            and self._reached < message_id < self._until
            and message_id not in self._overtaken
        )

    def overtake(self, message_id: int) -> None:
        """Leave this message out: it is filed already, or gone."""
        self._overtaken.add(message_id)
