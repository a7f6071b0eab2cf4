"""How many parts are open, counted message by message while messages come, change and go."""


class OpenCount:
    """Where the counting has been, and where it will never be, it follows what changes."""

    def __init__(self, until: int) -> None:
        """Messages of an id from `until` on are yet to come; each will be told by came()."""
        self.parts = 0
        self._until = until
        self._reached = -1
        #: Messages that came before their turn: whether that comes at all nobody knows.
        self._early: set[int] = set()

    def has(self, message_id: int) -> bool:
        """Whether the parts of this message are counted."""
        return not self._reached < message_id < self._until or message_id in self._early

    def came(self, message_id: int, parts: int) -> None:
        """A new message has so many."""
        if not self.has(message_id):
            self._early.add(message_id)
        self.parts += parts

    def visit(self, message_id: int, parts: int) -> None:
        """Its turn has come, and it has so many now.  Ascending."""
        if message_id < self._until:
            if message_id not in self._early:
                self.parts += parts
            self._reached = message_id
