"""What is in doubt of one delivery: which hosts may be asked about whom, in one attempt.

Pure.  A recipient is in doubt when the final dot was sent and no reply came (RFC 5321 4.5.3.2.6).
Another host would surely deliver it a second time, so it never goes straight to the next one.
The same host is asked once more, in a later attempt; only when that cannot be reached, or leaves
it in doubt again, does that attempt go on to the next host.
"""

from collections.abc import Callable, Mapping, Sequence

from gwrelay.message.outcome import Outcome
from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Doubt

Place = tuple[str, int]


class Doubts:
    """`before` is what the last attempt left; `find` a host by address and port, None when it is
    no longer one of the destination's."""

    def __init__(
        self, before: Sequence[Doubt], find: Callable[[str, int], Candidate | None]
    ) -> None:
        self._before = before
        self._first: dict[int, Place] = {}
        #: Hosts that need not be waited for: tried in this attempt, or gone.
        self._tried: set[Place] = set()
        #: To be asked before all others.
        self.hosts: list[Candidate] = []
        for doubt in before:
            place = doubt.address, doubt.port
            self._first |= dict.fromkeys(doubt.recipients, place)
            host = find(*place)
            if host is None:
                self._tried.add(place)
            else:
                self.hosts.append(host)
        self._now: dict[int, Candidate] = {}
        self._asked: set[int] = set()

    def may_ask(self, candidate: Candidate, n: int) -> bool:
        """Whether doubt about recipient `n` lets `candidate` be asked about it."""
        place = candidate.address, candidate.port
        first = self._first.get(n)
        if n in self._now:
            return _place(self._now[n]) == first != place
        return first is None or place == first or first in self._tried

    def tried(self, candidate: Candidate) -> None:
        self._tried.add(_place(candidate))

    def note(self, answer: Mapping[int, Outcome], candidate: Candidate) -> None:
        """What came of asking `candidate` about recipients."""
        if self._before:
            self._asked.update(answer)
        for n, verdict in answer.items():
            if verdict.in_doubt:
                self._now[n] = candidate
            elif self._now:
                self._now.pop(n, None)

    def left(self) -> tuple[Doubt, ...]:
        """What is in doubt after this attempt: what it left so, and whom it did not ask about."""
        if not self._now and not self._before:
            return ()
        where: dict[tuple[str, str, int], list[int]] = {}
        for exchange, address, port, recipients in self._before:
            unasked = [n for n in recipients if n not in self._asked]
            if unasked:
                where.setdefault((exchange, address, port), []).extend(unasked)
        for n, host in self._now.items():
            where.setdefault((host.exchange, host.address, host.port), []).append(n)
        return tuple(Doubt(*host, tuple(sorted(who))) for host, who in where.items())


def _place(candidate: Candidate) -> Place:
    return candidate.address, candidate.port
