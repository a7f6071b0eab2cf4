"""When something is to be looked at again, of which nothing may be heard before.  Pure.

A site has one alarm at most, and so has whatever else is named here: the newest one counts.
Costs O(log n) of those that are set, and nothing while none is due.
"""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Alarms(Generic[Name]):
    def __init__(self) -> None:
        self._at: dict[Name, float] = {}
        #: Time, a number that tells equal ones apart, name; those that were set anew are in it
        #: still, until their time.
        self._heap: list[tuple[float, int, Name]] = []
        self._numbers = count()

    def set(self, name: Name, at: float) -> None:
        """Unix seconds; instead of the one it has."""
        if self._at.get(name) != at:
            self._at[name] = at
            heappush(self._heap, (at, next(self._numbers), name))
            if len(self._heap) > 2 * len(self._at) + 1000:
                self._heap = [one for one in self._heap if self._at.get(one[2]) == one[0]]
                heapify(self._heap)

    def set_earlier(self, name: Name, at: float) -> None:
        """Unless it has one before that."""
        if at < self._at.get(name, float("inf")):
            self.set(name, at)

    def __contains__(self, name: Name) -> bool:
        return name in self._at

    def cancel(self, name: Name) -> None:
        self._at.pop(name, None)

    @property
    def next_at(self) -> float | None:
        """None when none is set.  Nothing is due before; after cancel() perhaps nothing at it."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Name]:
        """Names of those whose time has come, which have none from now on."""
        found: list[Name] = []
        while self._heap and self._heap[0][0] <= now:
            at, _, name = heappop(self._heap)
            if self._at.get(name) == at:
                del self._at[name]
                found.append(name)
        return found

    def names(self) -> list[Name]:
        """Of all that are set."""
        return list(self._at)
