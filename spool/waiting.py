"""What callers wait by: the standard library's, unless whoever opens the spool has others."""

from contextlib import AbstractContextManager
from typing import Protocol

#: Held for moments, with nothing in them that waits.
Lock = AbstractContextManager[object]


class Event(Protocol):
    """Lets everybody pass once it is set, and is never cleared."""

    def set(self) -> None: ...

    def wait(self) -> object: ...
