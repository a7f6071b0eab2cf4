"""Messages still in memory from accept to their first attempt, so that what is delivered
at once is never read back from disk.  A budget bounds it; the rest waits on disk."""

from gwrelay.message.envelope import Message


class Resident:
    """At most `budget_bytes` of content."""

    def __init__(self, budget_bytes: int) -> None:
        self._left_bytes = budget_bytes
        self._kept: dict[int, tuple[Message, bytes]] = {}

    def keep(self, message: Message, content: bytes) -> None:
        if len(content) <= self._left_bytes:
            self._left_bytes -= len(content)
            self._kept[message.id] = (message, content)

    def drop(self, message_id: int) -> None:
        if kept := self._kept.pop(message_id, None):
            self._left_bytes += len(kept[1])

    def message(self, message_id: int) -> Message | None:
        kept = self._kept.get(message_id)
        return kept[0] if kept else None

    def content(self, message_id: int) -> bytes | None:
        kept = self._kept.get(message_id)
        return kept[1] if kept else None
