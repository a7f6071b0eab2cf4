"""What was written of each key and is not durable yet.  Pure; the caller's lock keeps it.

The log has one order, and a key may have several records on their way into it: the last counts.

A power cut may take a frame and leave a later one.  Then the later state of a key must not stand
without what the lost frame put beside the earlier one: a report about a message, say, whose state
says that it was made.  So who replaces a state that is on its way says those again: see beside().
"""

from collections.abc import Sequence

from spool.entry import Entry
from spool.frame import Amend, AnyRecord, Drop, Put


class Unlanded:
    """add() in the order of the log; discard() when an entry has landed, or never will."""

    def __init__(self) -> None:
        self._of: dict[int, list[tuple[Put | Amend | Drop, Entry]]] = {}

    def __len__(self) -> int:
        """Keys."""
        return len(self._of)

    def add(self, entry: Entry) -> None:
        for record in entry.batch:
            kind = type(record)
            # A Put that is waited for has no key that anybody knows of, unless it is a copy.
            if kind is Drop or kind is Amend or (kind is Put and (entry.copies or not entry.waits)):
                self._of.setdefault(record[0], []).append((record, entry))  # type: ignore[arg-type]

    def discard(self, entry: Entry) -> None:
        if not self._of:
            return
        for record in entry.batch:
            on_their_way = self._of.get(record[0])
            if on_their_way is None:
                continue
            if len(on_their_way) > 1 or on_their_way[0][1] is not entry:
                on_their_way[:] = [one for one in on_their_way if one[1] is not entry]
                if on_their_way:
                    continue
            del self._of[record[0]]

    def newest(self, key: int) -> Put | Amend | Drop | None:
        """The last record of the key; None when all of them are durable."""
        on_their_way = self._of.get(key)
        return on_their_way[-1][0] if on_their_way else None

    def put(self, key: int) -> Put | None:
        """The key's Put, if that is on its way and no Drop behind it."""
        found = None
        for record, _ in self._of.get(key, ()):
            if type(record) is Put:
                found = record
            elif type(record) is Drop:
                found = None
        return found

    def gathered(self, batch: Sequence[AnyRecord]) -> bool:
        """Whether something of a key in `batch` waits for its commit to be written at all."""
        of = self._of
        if of:
            for record in batch:
                for _, entry in of.get(record[0], ()):
                    if not entry.noted:
                        return True
        return False

    def beside(self, batch: Sequence[AnyRecord]) -> list[Put]:
        """What `batch` must say again, before all else: what was put beside the states, on their
        way still, that it replaces.  Each as it is by now, and nothing that has ended."""
        again: dict[int, Put] = {}
        for record in batch:
            for state, entry in self._of.get(record[0], ()):
                # A copy says of its own accord what stands beside it, and a Put is the first state.
                if entry.copies or type(state) is Put:
                    continue
                for put in entry.batch:
                    if isinstance(put, Put):
                        newest = self.newest(put.key)
                        if isinstance(newest, Put | Amend):
                            again[put.key] = put._replace(state=newest.state)
        return list(again.values())
