"""Messages still in memory from accept, or from the failure that they report, to their first
attempt, so that what is delivered at once is never read back from disk.  A budget bounds it; the
rest waits on disk."""

from collections.abc import Callable
from typing import NamedTuple

from gwrelay.message.envelope import Message
from gwrelay.queue.store import State

_new = tuple.__new__

#: Bounces are kept while less than this part of the memory is in use: enough for those that leave
#: at once.  More of a storm for a slow host would be in the way of other mail, and many objects for
#: the garbage collector to walk.
_BOUNCES_SHARE = 16


class Kept(NamedTuple):
    message: Message
    content: bytes
    #: The newest, as the store has it encoded.
    state: State


class Resident:
    """At most `budget_bytes` of content."""

    def __init__(self, budget_bytes: int) -> None:
        #: Of the budget.
        self.left_bytes = budget_bytes
        self._not_for_bounces_bytes = budget_bytes - budget_bytes // _BOUNCES_SHARE
        self._kept: dict[int, Kept] = {}
        #: None for what is not here.  Asked six times for each delivery: no method of ours.
        self.get: Callable[[int], Kept | None] = self._kept.get

    def keep(self, message: Message, content: bytes, state: State) -> None:
        left_bytes = self.left_bytes - len(content)
        if left_bytes >= (self._not_for_bounces_bytes if state.is_bounce else 0):
            self.left_bytes = left_bytes
            self._kept[message.id] = _new(Kept, (message, content, state))

    def amend(self, message_id: int, state: State) -> None:
        if kept := self._kept.get(message_id):
            self._kept[message_id] = _new(Kept, (kept.message, kept.content, state))

    def drop(self, message_id: int) -> None:
        if kept := self._kept.pop(message_id, None):
            self.left_bytes += len(kept.content)
