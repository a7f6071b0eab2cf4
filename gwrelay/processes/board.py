"""A page of memory that the workers of a gateway and their supervisor have in common.

    board  := column * columns
    column := beat_at:float64  clients:int64        in the machine's byte order

Each worker writes its own column, and the supervisor that of one which is dead; 8 bytes that are
aligned are written at once.  So nobody needs a lock.
"""

import mmap
import os

_COLUMN_BYTES = 16
#: In place of a number of clients: this worker takes none.
_CLOSED = -1
#: So many clients more than another are none too many: for those that come and go, to wait for
#: an even number costs more than it is worth.
_SLACK = 2


def new_board(columns: int) -> int:
    """A descriptor for Board(), of a file that has no name."""
    descriptor = os.memfd_create("gwrelay-board")
    os.ftruncate(descriptor, columns * _COLUMN_BYTES)
    return descriptor


class Board:
    """The page behind `descriptor`, which new_board() made; -1: one of our own."""

    def __init__(self, descriptor: int, columns: int) -> None:
        memory = memoryview(mmap.mmap(descriptor, columns * _COLUMN_BYTES))
        self._beats = memory.cast("d")[::2]
        self._clients = memory.cast("q")[1::2]

    def column(self, number: int) -> "Column":
        return Column(self._beats, self._clients, number)


class Column:
    """What one worker tells the others.  `number` counts from 0."""

    def __init__(self, beats: "memoryview[float]", clients: "memoryview[int]", number: int) -> None:
        self._beats = beats
        self._clients = clients
        self._number = number

    def clear(self) -> None:
        """This worker does not run: it counts for nothing until it says something again."""
        self._beats[self._number] = 0.0
        self._clients[self._number] = _CLOSED

    @property
    def beat_at(self) -> float:
        """When its loop turned last, in seconds of the monotonic clock; 0.0: it never did."""
        return float(self._beats[self._number])

    def beat(self, now: float) -> None:
        self._beats[self._number] = now

    # -- clients ---------------------------------------------------------------------------

    def open(self) -> None:
        """This worker takes clients from now on, and has none yet."""
        self._clients[self._number] = 0

    def add_client(self) -> None:
        self._clients[self._number] += 1

    def remove_client(self) -> None:
        self._clients[self._number] -= 1

    @property
    def is_alone(self) -> bool:
        """Whether there is no other column."""
        return len(self._clients) == 1

    @property
    def has_too_many(self) -> bool:
        """Whether another worker, which takes clients as well, should have the next one."""
        others = [count for count in self._clients.tolist() if count != _CLOSED]
        return bool(others) and self._clients[self._number] > min(others) + _SLACK

    @property
    def everybodys_clients(self) -> int:
        """Of all workers that take clients."""
        return sum(count for count in self._clients.tolist() if count != _CLOSED)
