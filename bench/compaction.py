"""`gwrelay bench compaction`: what compaction costs those who write meanwhile.

First the most that writers get accepted is found.  Then they write at half that rate, in turns
with compaction and without, to a fresh spool that begins with segments worth compacting.  As
mail does, most records end soon and some stay, so that new segments become worth it as well.
"""

import gc
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import gevent
from gevent.queue import SimpleQueue

from gwrelay_bench.figures import latency
from gwrelay_bench.machine import tree_bytes
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.scenario import Bench, BenchFailed, Size, as_module, scenario
from gwrelay_bench.spooling import RECORD_BYTES, SEGMENT_BYTES, await_spare, fill, put, running
from spool import Drop, Spool

_WRITERS = 128
#: No segment's dead share is above the whole: nothing is compacted.
_NEVER = 1.0
#: Of so many records one stays to the end.
_STAYS_OF = 4
#: Records younger than one of the others when that ends.
_ENDS_AFTER = 2000
_TICK_S = 0.002
_LOOK_EVERY_S = 0.25


class Round(NamedTuple):
    """One spool under load."""

    accepted: int
    seconds: float
    #: Seconds from when each record was to be written until it was durable.
    waited_s: Sequence[float]
    written_bytes: int
    #: Part of `written_bytes`.
    compacted_bytes: int
    #: (seconds, bytes on disk, living bytes), every now and then.
    over_time: Sequence[tuple[float, int, int]]


class Mail:
    """Records that come and mostly go, as those of mail do."""

    def __init__(self, spool: Spool) -> None:
        self.accepted = 0
        self.ended = 0
        self._spool = spool
        self._before = len(spool)
        self._body = os.urandom(RECORD_BYTES)
        self._aging: deque[int] = deque()

    def accept(self) -> None:
        """One more, durable on return; an older one may end."""
        key = self._spool.new_key()
        self._spool.write([put(key, self._body)])
        self.accepted += 1
        if self.accepted % _STAYS_OF:
            self._aging.append(key)
        if len(self._aging) > _ENDS_AFTER:
            self._spool.write([Drop(self._aging.popleft())], wait=False)
            self.ended += 1

    def check(self) -> None:
        self._spool.sync()
        wanted = self._before + self.accepted - self.ended
        if len(self._spool) != wanted:
            raise BenchFailed(f"the spool has {len(self._spool)} records and should have {wanted}")


@click.command("compaction")
@click.option(
    "--seconds", default=4.0, show_default=True, type=click.FloatRange(min=0.1),
    help="Of each round.",
)  # fmt: skip
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--share", default=0.5, show_default=True, type=click.FloatRange(0.01, 1.0),
    help="Of the most that is accepted.",
)  # fmt: skip
@click.option(
    "--former", default=30_000, show_default=True, type=click.IntRange(min=0),
    help="Records there before.",
)  # fmt: skip
@click.option(
    "--ratio", default=0.5, show_default=True, type=click.FloatRange(0, _NEVER, max_open=True),
    help="Dead share that is worth it.",
)  # fmt: skip
@click.option("--rate", default="50M", show_default=True, type=Size(), help="Bytes/s compacted.")
@scenario
def command(
    bench: Bench, seconds: float, rounds: int, share: float, former: int, ratio: float, rate: int
) -> None:
    """Accepting at half the maximum rate while compaction is at work, against without it."""
    per_s = _most(bench.directory / "most", min(1.0, seconds)) * share
    found: dict[float, list[Round]] = {_NEVER: [], ratio: []}
    with bench.steps("compaction", len(found) * rounds) as advance:
        for number in range(rounds):
            for compact_ratio, under_load in found.items():
                directory = bench.directory / f"{number}-{compact_ratio}"
                fill(directory, former, _STAYS_OF)
                with running(
                    directory,
                    segment_bytes=SEGMENT_BYTES,
                    compact_ratio=compact_ratio,
                    compact_rate_bytes_s=rate,
                ) as spool:
                    under_load.append(_load(spool, directory, per_s, seconds))
                advance(1)
    settings = {
        "offered_per_s": round(per_s, 1),
        "share": share,
        "record_bytes": RECORD_BYTES,
        "former_records": former,
        "compact_ratio": ratio,
        "compact_rate_bytes_s": rate,
        "seconds": seconds,
        "rounds": rounds,
    }
    bench.tell(_result(settings, found[ratio], found[_NEVER]))


def _most(directory: Path, seconds: float) -> float:
    """Records/s that writers get accepted who write one after another."""
    with running(directory, segment_bytes=SEGMENT_BYTES, compact_ratio=_NEVER) as spool:
        await_spare(directory)
        mail = Mail(spool)
        began = time.perf_counter()

        def write() -> None:
            while time.perf_counter() < began + seconds:
                mail.accept()

        _work(write)
        took = time.perf_counter() - began
        mail.check()
    return mail.accepted / took


def _load(spool: Spool, directory: Path, per_s: float, seconds: float) -> Round:
    """Write at `per_s`, whether or not the spool keeps up: then records wait their turn."""
    mail = Mail(spool)
    await_spare(directory)
    counters = spool.counters
    written, compacted = counters.written_bytes, counters.compacted_bytes
    due: SimpleQueue[float | None] = SimpleQueue()
    waited_s: list[float] = []
    over_time: list[tuple[float, int, int]] = []
    gc.collect()
    gc.freeze()  # as the gateway does with what is there at its start
    began = time.perf_counter()

    def write() -> None:
        while (moment := due.get()) is not None:
            mail.accept()
            waited_s.append(time.perf_counter() - moment)

    def look() -> None:
        while True:
            now = round(time.perf_counter() - began, 3)
            over_time.append((now, tree_bytes(directory), spool.living_bytes))
            gevent.sleep(_LOOK_EVERY_S)

    looking = gevent.spawn(look)
    offering = gevent.spawn(_offer, due.put, began, per_s, seconds)
    _work(write)
    offering.get()
    took = time.perf_counter() - began
    looking.kill()
    mail.check()
    over_time.append((round(took, 3), tree_bytes(directory), spool.living_bytes))
    return Round(
        len(waited_s),
        took,
        waited_s,
        counters.written_bytes - written,
        counters.compacted_bytes - compacted,
        over_time,
    )


def _work(write: Callable[[], None]) -> None:
    gevent.joinall([gevent.spawn(write) for _ in range(_WRITERS)], raise_error=True)


def _offer(
    give: Callable[[float | None], object], began: float, per_s: float, seconds: float
) -> None:
    """The moment each record is due, when it has come; then None for each writer."""
    offered = 0
    while (now := time.perf_counter() - began) < seconds:
        while offered < now * per_s:
            give(began + offered / per_s)
            offered += 1
        gevent.sleep(_TICK_S)
    for _ in range(_WRITERS):
        give(None)


def _result(settings: dict[str, Any], with_it: list[Round], without: list[Round]) -> Result:
    figures, baseline = _figures(with_it), _figures(without)
    return Result(
        "compaction",
        settings,
        figures,
        baseline,
        figures["accept_ms"]["p99"] / baseline["accept_ms"]["p99"],
        targets=[Target("ratio", at_most=2.0)],
    )


def _figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """Of all rounds together; what is on disk, of the last.  `ratio` is that of accept_ms.p99."""
    accepted = sum(one.accepted for one in rounds)
    written = sum(one.written_bytes for one in rounds)
    compacted = sum(one.compacted_bytes for one in rounds)
    _, disk, living = rounds[-1].over_time[-1]
    return {
        "accepted": accepted,
        "accepted_per_s": round(accepted / sum(one.seconds for one in rounds), 1),
        "accept_ms": latency([seconds for one in rounds for seconds in one.waited_s]),
        "written_bytes": written,
        "compacted_bytes": compacted,
        "write_amplification": round(written / (written - compacted), 3),
        "disk_bytes": disk,
        "living_bytes": living,
        "disk_over_twice_living_bytes": disk - 2 * living,
        "over_time": rounds[-1].over_time,
    }


if __name__ == "__main__":
    as_module(__spec__.name)
