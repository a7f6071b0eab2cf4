"""One load on its way through one relay, from its source to its sink: started, watched, told.

Says what was measured, and raises BenchFailed unless every message was taken and arrived as it
was sent.  Which relays, and how often, is rounds.py's.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple, Self

import gevent

from gwrelay_bench.child import Child, Client, running
from gwrelay_bench.figures import latency
from gwrelay_bench.ledger import ACCEPTED, AGAIN, ANSWERED, ARRIVED, OPEN, SPOILT, STRANGE, Ledger
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.machine import usage
from gwrelay_bench.relays import Address, Onward, Relay, Used
from gwrelay_bench.scenario import Bench, BenchFailed

#: Seconds without an answer or arrival after which the rest is called missing.
_PATIENCE_S = 60.0
_POLL_S = 0.02
#: Seconds between two looks at memory: with hundreds of processes one takes milliseconds.
_LOOK_EVERY_S = 1.0
#: Of what is missing, so many are named.
_NAMED = 10


class Plan(NamedTuple):
    """What is handed in, and how it is taken in the end."""

    load: Load
    reception: Reception = Reception()
    #: Of the name server that knows the domains; None: the sink is a smart host.
    resolver: Address | None = None


class Passage:
    """`plan` through `relay`, in a directory of its own while it is open."""

    def __init__(self, bench: Bench, plan: Plan, relay: Relay, what: str) -> None:
        self._bench = bench
        self._plan = plan
        self._what = what
        self.relay = relay
        self.directory = Path(tempfile.mkdtemp(dir=bench.directory))
        # Postfix gives up being root below it.
        for directory in (bench.directory, self.directory):
            directory.chmod(0o711)
        self.ledger = Ledger(self.directory / "ledger", plan.load.messages)
        self._peak_bytes = self._processes = 0
        #: Most connections that were open at the sink at one time.
        self.most_open = 0
        self._looked_at = 0.0

    def __enter__(self) -> Self:
        # What earlier ones left to be written would be written beside this one.
        os.sync()
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.kill()
        shutil.rmtree(self.directory)

    @contextmanager
    def sink(self) -> Iterator[Child]:
        """It takes mail until the end of the block."""
        words = (
            dumps(self._plan.reception._asdict()),
            str(self.ledger.path),
            dumps(self._plan.load._asdict()),
        )
        with running("gwrelay_bench.loadsink", *words) as child:
            yield child

    def onward(self, port: int) -> Onward:
        return Onward(self._plan.reception.addresses[0], port, self._plan.resolver)

    def send(self, address: Address, *, until_arrived: bool) -> float:
        """Hand all of it in at `address`; `until_arrived`: return once it is at the sink, too.
        CPU seconds that the source used."""
        load, counters = self._plan.load, self.ledger.counters
        words = (address[0], str(address[1]), str(self.ledger.path), dumps(load._asdict()))
        source = Client("gwrelay_bench.loadsource", *words)

        def is_over() -> bool:
            if not source.is_done or not until_arrived:
                return source.is_done
            return self.ledger.lost <= 0 or counters[ACCEPTED] < load.messages

        try:
            self.watch(self._what, ARRIVED if until_arrived else ACCEPTED, is_over)
            if not source.is_done:
                raise BenchFailed(f"{self._what}: nothing is answered any more")
            said = source.said()
        finally:
            source.end()
        missed = load.messages - counters[ACCEPTED]
        if missed:
            raise BenchFailed(f"{self._what}: {missed} messages were not taken: {said['said']}")
        return float(said["cpu_s"])

    def watch(self, what: str, counter: int, is_over: Callable[[], bool]) -> None:
        """Return once it is over, or nothing has moved for long; `counter` is what is shown."""
        counters, moved_at, before, told = self.ledger.counters, time.monotonic(), -1, 0
        with self._bench.steps(what, self._plan.load.messages) as advance:
            while not is_over():
                self.relay.check()
                self.most_open = max(self.most_open, counters[OPEN])
                now, seen = time.monotonic(), counters[ANSWERED] + counters[ARRIVED]
                if seen != before:
                    before, moved_at = seen, now
                    advance(counters[counter] - told)
                    told = counters[counter]
                elif now - moved_at > _PATIENCE_S:
                    return
                self._look(now)
                gevent.sleep(_POLL_S)

    def used(self) -> Used:
        """By the relay; memory is the most so far."""
        used = self.relay.used()
        self._peak_bytes = max(self._peak_bytes, used.peak_bytes)
        self._processes = max(self._processes, used.processes)
        return Used(used.cpu_s, self._peak_bytes, self._processes)

    def judge(self) -> None:
        """Once nothing more comes: raises BenchFailed unless all arrived, and as it was sent."""
        counters, missing = self.ledger.counters, self.ledger.missing()
        if missing:
            some = ", ".join(f"r{number}" for number in missing[:_NAMED])
            raise BenchFailed(f"{self._what}: {len(missing)} messages did not arrive: {some}")
        if counters[SPOILT] or counters[STRANGE]:
            raise BenchFailed(
                f"{self._what}: {counters[SPOILT]} messages were not what was sent, and"
                f" {counters[STRANGE]} not ours"
            )

    def _look(self, now: float) -> None:
        if now - self._looked_at > _LOOK_EVERY_S:
            self._looked_at = now
            self.used()


def run(bench: Bench, plan: Plan, relay: Relay, what: str) -> dict[str, Any]:
    """Its figures."""
    with Passage(bench, plan, relay, what) as passage, passage.sink() as sink:
        address = relay.start(passage.directory / "relay", passage.onward(sink.port))
        before = passage.used()
        source_cpu_s = passage.send(address, until_arrived=True)
        after, counted = passage.used(), relay.counted()
        relay.stop()
        passage.judge()
        load_cpu_s = source_cpu_s + usage(sink.pid).cpu_s
        found = figures(passage.ledger, plan.load)
        if after.processes:
            found |= of_relay(plan.load.messages, before, after)
        else:
            del found["to_arrival_ms"]  # without a relay it is there before the 250
        return {
            **found,
            **counted,
            "sessions_at_once": passage.most_open,
            "load_cpu_s_per_1000": round(1000 * load_cpu_s / plan.load.messages, 4),
        }


def figures(ledger: Ledger, load: Load) -> dict[str, Any]:
    """Rates from the first byte in, and latencies in milliseconds."""
    ended_at, answered_at = max(ledger.arrived_at), max(ledger.answered_at)
    count, began_at = load.messages, ledger.began_at
    found: dict[str, Any] = {
        "per_s": round(count / (ended_at - began_at), 1),
        "accepted_per_s": round(count / (answered_at - began_at), 1),
        "dot_to_250_ms": between(ledger.sent_at, ledger.answered_at),
        # 0 where the sink was faster than the source was to read its 250.
        "to_arrival_ms": between(ledger.answered_at, ledger.arrived_at),
        "again": ledger.counters[AGAIN],
    }
    if load.rate_per_s:
        # From when it should have begun: a source that is held up must not hide it.
        due_at = [load.due_at(number, began_at) for number in range(count)]
        found["due_to_dot_ms"] = between(due_at, ledger.sent_at)
    return found


def between(starts: Iterable[float], ends: Iterable[float]) -> dict[str, float] | None:
    """Percentiles of the times from each of these to each of those, in milliseconds."""
    return latency([max(0.0, end - start) for start, end in zip(starts, ends, strict=True)])


def of_relay(messages: int, before: Used, after: Used) -> dict[str, Any]:
    return {
        "cpu_s_per_1000": round(1000 * (after.cpu_s - before.cpu_s) / messages, 4),
        "peak_bytes": after.peak_bytes,
        "processes": after.processes,
    }
