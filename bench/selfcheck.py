"""`gwrelay bench selfcheck`: what a round of the self-check costs, with a million messages waiting.

They lie in a spool, each small and tried once, with ids as if a busy gateway had taken them one
after the other.  The baseline reads the newest state of each once, which no check of all of them
can do without.  CPU time of one thread, but for the pauses: those are what a round would make.
"""

import random
import time
from collections.abc import Callable, Iterator
from itertools import count
from statistics import median
from typing import NamedTuple

import click

from gwrelay.message.envelope import Envelope, Message, Recipient
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.selfcheck import pause_s
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.store import Open, State, Store, encode_message, encode_state
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.scenario import Bench, BenchFailed, as_module, scenario
from spool import Put

#: Messages a second.
_RATE = 5000
#: Seconds over which what waits is due.
_SPREAD_S = 4 * 3600.0
_AT_ONCE = 1000


class _Round(NamedTuple):
    cpu_s: float
    longest_ms: float
    steps: int
    lasts_s: float


@click.command("selfcheck")
@click.option("--waiting", type=click.IntRange(min=10), default=1_000_000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@scenario
def command(bench: Bench, waiting: int, rounds: int) -> None:
    """A round of the self-check with 1,000,000 waiting, against reading their states once."""
    now, moments = time.time(), count()
    log = open_spool(bench.directory / "spool", clock=lambda: now + next(moments) / _RATE)
    try:
        with bench.steps("filling", waiting) as advance:
            for batch in _batches(waiting, now, log.new_key):
                log.write(batch)
                advance(len(batch))
        store = SpoolStore(log)
        queue = Queue(store)
        read_s, found = [], []
        with bench.steps("selfcheck", rounds) as advance:
            for _ in range(rounds):
                read_s.append(_read_all(store))
                found.append(_go_round(queue))
                advance(1)
        if queue.violations.count or len(queue) != waiting:
            raise BenchFailed("the self-check found something wrong where nothing is")
    finally:
        log.close()
    bench.tell(_result(waiting, rounds, found, median(read_s)))


def _batches(waiting: int, now: float, new_key: Callable[[], int]) -> Iterator[list[Put]]:
    rng = random.Random(1)
    for start in range(0, waiting, _AT_ONCE):
        batch = []
        for number in range(start, min(start + _AT_ONCE, waiting)):
            key, domain = new_key(), f"d{number % 1000}.down.example"
            envelope = Envelope("s@source.example", (Recipient(f"r{number}@{domain}"),))
            due_at = now + rng.uniform(0.0, _SPREAD_S)
            state = State(now, False, (Open(domain, (0,), 1, due_at),), 1 + number % 100)
            head = encode_message(Message(key, now, 100, envelope))
            batch.append(Put(key, encode_state(state), head, b""))
        yield batch


def _read_all(store: Store) -> float:
    began = time.thread_time()
    for some in store.ids():
        for message_id in some:
            store.state(message_id)
    return time.thread_time() - began


def _go_round(queue: Queue) -> _Round:
    took_s = []
    lasts_s = 0.0
    began = time.thread_time()
    for least_s in queue.selfcheck.round():
        took_s.append(time.thread_time() - began)
        lasts_s += took_s[-1] + pause_s(least_s, took_s[-1])
        began = time.thread_time()
    return _Round(sum(took_s), 1000 * max(took_s), len(took_s), lasts_s)


def _result(waiting: int, rounds: int, found: list[_Round], read_s: float) -> Result:
    cpu_s = median(one.cpu_s for one in found)
    lasts_s = median(one.lasts_s for one in found)
    figures = {
        "cpu_s": round(cpu_s, 3),
        "longest_ms": round(max(one.longest_ms for one in found), 2),
        "steps": found[0].steps,
        "lasts_s": round(lasts_s, 1),
        "cpu_percent": round(100 * cpu_s / lasts_s, 3),
    }
    return Result(
        "selfcheck",
        {"waiting": waiting, "rounds": rounds},
        figures,
        {"cpu_s": round(read_s, 3)},
        round(cpu_s / read_s, 3) if read_s else None,
        targets=[Target("longest_ms", at_most=5), Target("cpu_percent", at_most=0.5)],
    )


if __name__ == "__main__":
    as_module(__spec__.name)
