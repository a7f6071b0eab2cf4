"""`gwrelay bench schedule`: what it costs to know what is due, with a million deliveries waiting.

Each operation runs many times over a schedule that stays as full as it was; the baseline does
the same with a bare heap of tuples, which can neither hasten nor remove.  No message is made.
"""

import random
import time
from collections.abc import Callable
from heapq import heappop, heappush
from statistics import median

import click

from gwrelay.queue.schedule import Schedule
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.scenario import Bench, as_module, scenario

#: Seconds over which what waits is spread.
_SPREAD_S = 4 * 3600.0
#: Parts taken in one go, as the gateway does.
_AT_ONCE = 100

#: One more operation, of this number.
Operation = Callable[[int], None]


class _Bare:
    """The least that knows what is due."""

    def __init__(self, dues: list[float]) -> None:
        self.heap = sorted((due_at, n, n, 0) for n, due_at in enumerate(dues))
        self.now = 0.0

    def add(self, number: int) -> None:
        heappush(self.heap, (_SPREAD_S, number, number, 0))

    def take(self, number: int) -> None:
        due_at, *_ = heappop(self.heap)
        heappush(self.heap, (due_at + _SPREAD_S, number, number, 0))


class _Ours:
    def __init__(self, dues: list[float]) -> None:
        self.schedule = Schedule()
        self.entries = [self.schedule.add_known(due_at, n, 0) for n, due_at in enumerate(dues)]
        self._taken: list[tuple[float, int, int]] = []

    def add(self, number: int) -> None:
        self.schedule.add(_SPREAD_S, number, 0)

    def take(self, number: int) -> None:
        """The next one, which waits again."""
        if not self._taken:
            due_at = self.schedule.next_due_at or 0.0
            self._taken = self.schedule.take_due(due_at + _SPREAD_S / 1000, _AT_ONCE)
        due_at, message_id, part = self._taken.pop()
        self.schedule.add(due_at + _SPREAD_S, message_id, part)

    def hasten(self, number: int) -> None:
        self.schedule.hasten(self.entries[-1 - number], 1.0, len(self.entries) - 1 - number, 0)

    def remove(self, number: int) -> None:
        self.schedule.remove(number, 0)


@click.command("schedule")
@click.option("--waiting", type=click.IntRange(min=1000), default=1_000_000, show_default=True)
@click.option(
    "--operations", type=click.IntRange(min=10), default=200_000, show_default=True,
    help="Of each kind, in each round.",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@scenario
def command(bench: Bench, waiting: int, operations: int, rounds: int) -> None:
    """Operations on what is due when, with many deliveries waiting, against a bare heap."""
    operations = min(operations, waiting // 2)
    rng = random.Random(1)
    rates: dict[str, list[float]] = {}
    bare: dict[str, list[float]] = {}
    longest: dict[str, float] = {}
    with bench.steps("schedule", rounds) as advance:
        for _ in range(rounds):
            dues = [rng.uniform(0.0, _SPREAD_S) for _ in range(waiting)]
            baseline, ours = _Bare(dues), _Ours(dues)
            for name in ("add", "take"):
                bare.setdefault(name, []).append(_rate(getattr(baseline, name), operations))
            for name in ("add", "take", "hasten", "remove"):
                operation = getattr(ours, name)
                rates.setdefault(name, []).append(_rate(operation, operations // 2))
                slowest = _longest(operation, operations // 2, operations)
                longest[name] = max(slowest, longest.get(name, 0.0))
            advance(1)
    for name in rates:
        bench.tell(_result(name, waiting, operations, rates, bare, longest[name]))


def _rate(operation: Operation, count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        operation(number)
    return count / (time.perf_counter() - began)


def _longest(operation: Operation, start: int, stop: int) -> float:
    """Seconds that the longest of these takes."""
    longest = 0.0
    for number in range(start, stop):
        began = time.perf_counter()
        operation(number)
        longest = max(longest, time.perf_counter() - began)
    return longest


def _result(
    name: str,
    waiting: int,
    operations: int,
    rates: dict[str, list[float]],
    bare: dict[str, list[float]],
    longest_s: float,
) -> Result:
    per_s = median(rates[name])
    baseline = {"per_s": round(median(bare[name]))} if name in bare else {}
    return Result(
        "schedule",
        {"operation": name, "waiting": waiting, "operations": operations},
        {"per_s": round(per_s), "longest_ms": round(longest_s * 1000, 3)},
        baseline,
        round(per_s / baseline["per_s"], 3) if baseline else None,
        targets=[Target("per_s", at_least=200_000), Target("longest_ms", at_most=10)],
    )


if __name__ == "__main__":
    as_module(__spec__.name)
