"""What has not moved for too long, of things that should.  Pure: the time is given."""

from collections.abc import Hashable
from typing import NamedTuple


class Thing(NamedTuple):
    """Something that should move."""

    #: What it is; it is known by this in the next look.
    concern: Hashable
    #: Another one whenever it has moved.
    progress: object
    #: For people: what it is, and where it is.
    text: str


class _Seen(NamedTuple):
    progress: object
    #: The first look that found it so.
    since: float
    #: When it is to be told next.
    tell_at: float


class Stuck:
    """One look after the other: begin(), see() everything that should move, end().  What is not
    seen any more is over."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._before: dict[Hashable, _Seen] = {}
        self._seen: dict[Hashable, _Seen] = {}
        #: Those that are stuck, and since when.
        self._stuck: dict[Hashable, float] = {}

    def begin(self) -> None:
        self._before, self._seen = self._seen, {}

    def see(self, thing: Thing, now: float) -> float | None:
        """→ since when it has been stuck, if that is to be told now: when it begins, and each time
        it has lasted for as long again."""
        seen = self._before.get(thing.concern)
        if seen is None or seen.progress != thing.progress:
            seen = _Seen(thing.progress, now, now + self._after_s)
            self._stuck.pop(thing.concern, None)
        is_due = now >= seen.tell_at
        if is_due:
            seen = seen._replace(tell_at=now + self._after_s)
            self._stuck[thing.concern] = seen.since
        self._seen[thing.concern] = seen
        return seen.since if is_due else None

    def end(self) -> None:
        self._before = {}
        self._stuck = {one: at for one, at in self._stuck.items() if one in self._seen}

    def __len__(self) -> int:
        return len(self._stuck)

    def since(self, concern: Hashable) -> float | None:
        """None: it is not stuck."""
        return self._stuck.get(concern)
