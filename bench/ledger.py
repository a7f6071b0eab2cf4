"""Times and counts of one load in memory that its source, its sink and the bench have in common.

    ledger := counter:int64 * 16  began_at:float64  column * 3      in the machine's byte order
    column := seconds:float64 * messages        sent_at, answered_at, arrived_at, by number

So nobody has to tell anybody what happened, and to look on costs those who work nothing.  Each
place has one writer; 0.0 is what has not happened.  Loads nothing that takes long: source and
sink are processes of their own.
"""

import mmap
import os
from pathlib import Path
from typing import Final

_COUNTERS: Final = 16
_BYTES: Final = 8
#: The source's counters: messages it has an answer to, and of them those that were accepted.
ANSWERED, ACCEPTED = 0, 1
#: The sink's: messages that are there, those that came again, those that are none of ours, those
#: whose content is not what the source sent; connections, those under TLS, and those that are open.
ARRIVED, AGAIN, STRANGE, SPOILT = 2, 3, 4, 5
SESSIONS, ENCRYPTED, OPEN = 6, 7, 8
#: Of a sink that takes mail of anybody: recipients, bytes, what went wrong on purpose, and whether
#: it listens.
RECIPIENTS, BYTES, FAULTS, LISTENS = 9, 10, 11, 12


class Ledger:
    """That of `messages`, in the file at `path`.  Made when there is none.

    Times are Unix seconds: when a message's final dot had been given to the kernel, when the answer
    to it was read, when it was read at the sink.
    """

    def __init__(self, path: Path, messages: int) -> None:
        self.path = path
        self.messages = messages
        size = _BYTES * (_COUNTERS + 1 + 3 * messages)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.truncate(descriptor, size)
            memory = memoryview(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)
        self.counters = memory[: _BYTES * _COUNTERS].cast("q")
        times = memory[_BYTES * _COUNTERS :].cast("d")
        self._began = times[:1]
        self.sent_at, self.answered_at, self.arrived_at = (
            times[1 + number * messages : 1 + (number + 1) * messages] for number in range(3)
        )

    @property
    def began_at(self) -> float:
        """Before the source's first connection."""
        return float(self._began[0])

    @began_at.setter
    def began_at(self, now: float) -> None:
        self._began[0] = now

    @property
    def lost(self) -> int:
        """Messages that were accepted and are not there (yet)."""
        return int(self.counters[ACCEPTED] - self.counters[ARRIVED])

    def missing(self) -> list[int]:
        """The numbers of those that are not there."""
        return [number for number, at in enumerate(self.arrived_at) if not at]
