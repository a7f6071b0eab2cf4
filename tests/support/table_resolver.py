"""Name servers as a table: a resolver for MXCalculator that answers from a dict, at once."""

import threading
from collections.abc import Mapping, Sequence

from gwrelay.mx.exchanges import Answer, LookupFailed, Question

#: (name, kind) -> what the question gets.
Table = dict[tuple[str, str], Answer | LookupFailed]


class SetClock:
    """A clock that stands still until it is moved.  Seconds."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class TableResolver:
    """What is not in `table` gets `otherwise`.

    With `gate` cleared, questions wait until it is set, so that tests can hold lookups up.
    """

    def __init__(self, table: Table, otherwise: Answer | None = None) -> None:
        self.table = table
        self.otherwise = otherwise or Answer("nxdomain", 120.0)
        self.questions: list[Question] = []
        self.under_way = 0
        self.most_under_way = 0
        self.gate = threading.Event()
        self.gate.set()
        self.clock: SetClock | None = None
        #: Moves `clock` by that much for each question.
        self.takes_s = 0.0
        self._lock = threading.Lock()

    def ask(self, question: Question) -> Answer:
        with self._lock:
            self.questions.append(question)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        self.gate.wait(10)
        with self._lock:
            self.under_way -= 1
        if self.clock is not None:
            self.clock.advance(self.takes_s)
        answer = self.table.get((question.name, question.kind), self.otherwise)
        if isinstance(answer, LookupFailed):
            raise answer
        return answer

    def fail(self, *names: str) -> None:
        """From now on every question about `names` fails; without names, every one at all."""
        for name, kind in list(self.table):
            if not names or name in names:
                self.table[name, kind] = servfail(name)


def servfail(name: str = "x") -> LookupFailed:
    return LookupFailed(name, "SERVFAIL")


def mx(*records: tuple[int, str], ttl_s: float = 300.0) -> Answer:
    return Answer("records", ttl_s, mx=records)


def addresses(*found: str, ttl_s: float = 300.0) -> Answer:
    return Answer("records", ttl_s, addresses=found)


def nodata(ttl_s: float = 120.0) -> Answer:
    return Answer("nodata", ttl_s)


def nxdomain(ttl_s: float = 120.0) -> Answer:
    return Answer("nxdomain", ttl_s)


def site(
    domain: str, hosts: Mapping[str, tuple[int, Sequence[str]]], ttl_s: float = 300.0
) -> Table:
    """The table of a domain: hosts[name] is (preference, addresses of either family)."""
    table: Table = {(domain, "MX"): mx(*((p, name) for name, (p, _) in hosts.items()), ttl_s=ttl_s)}
    for name, (_, found) in hosts.items():
        four = [a for a in found if ":" not in a]
        six = [a for a in found if ":" in a]
        table[name, "A"] = addresses(*four, ttl_s=ttl_s) if four else nodata()
        table[name, "AAAA"] = addresses(*six, ttl_s=ttl_s) if six else nodata()
    return table
