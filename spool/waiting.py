"""What callers wait by: the standard library's, unless whoever opens the spool has others."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

_T = TypeVar("_T")

#: Held for moments, with nothing in them that waits.
Lock = AbstractContextManager[object]


class Event(Protocol):
    """Lets everybody pass once it is set, and is never cleared."""

    def set(self) -> None: ...

    def wait(self) -> object: ...


def locked(lock: Lock, steps: Iterator[_T]) -> Iterator[_T]:
    """`steps`, each taken while `lock` is held, which is free between them."""
    while True:
        with lock:
            found = next(steps, None)
        if found is None:
            return
        yield found
