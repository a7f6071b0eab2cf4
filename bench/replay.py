"""`gwrelay bench replay`: how long a spool takes to open, as a function of its size.

Each size is opened again and again, without the files that only save time and then with what the
last close left of them; right before, its segments are read once, as the baseline.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click

from gwrelay_bench.measure import Result
from gwrelay_bench.scenario import Bench, BenchFailed, as_module, scenario
from gwrelay_bench.spooling import checkpoints, fill, leave_page_cache, read_once
from spool import Spool


@click.command("replay")
@click.option(
    "--messages", default=(1_000, 10_000, 50_000), multiple=True, type=click.IntRange(min=1),
    show_default=True, help="In the spool; may be repeated.",
)  # fmt: skip
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--cold", is_flag=True, help="Drop the files from the page cache before each.")
@scenario
def command(bench: Bench, messages: Sequence[int], rounds: int, cold: bool) -> None:
    """Opening a spool with 4 KiB messages, against reading its files once."""
    with bench.steps("replay", (rounds + 1) * len(messages)) as advance:
        for count in messages:
            directory = bench.directory / str(count)
            fill(directory, count)
            advance(1)
            whole, short, reads = [], [], []
            for _ in range(rounds):
                for path in checkpoints(directory):
                    path.unlink()
                size_bytes, seconds = read_once(directory, cold)
                reads.append(seconds)
                whole.append(_open(directory, count, cold))
                if checkpoints(directory):
                    short.append(_open(directory, count, cold))
                advance(1)
            for with_checkpoint, opened in ((False, whole), (True, short)):
                if opened:
                    settings = {"messages": count, "checkpoint": with_checkpoint, "cold": cold}
                    bench.tell(_result(settings, size_bytes, opened, reads))


class _Opened(NamedTuple):
    """What it took until a spool was there with all its keys, in seconds."""

    took_s: float
    cpu_s: float


def _open(directory: Path, messages: int, cold: bool) -> _Opened:
    if cold:
        leave_page_cache(directory)
    began, used = time.perf_counter(), time.process_time()
    spool = Spool(directory)
    opened = _Opened(time.perf_counter() - began, time.process_time() - used)
    found = len(spool)
    spool.close()
    if found != messages:
        raise BenchFailed(f"{messages} records were written, and the spool has {found}")
    return opened


def _result(
    settings: dict[str, Any], size_bytes: int, opened: list[_Opened], reads: list[float]
) -> Result:
    open_s, read_s = round(median(one.took_s for one in opened), 6), round(median(reads), 6)
    cpu_s = median(one.cpu_s for one in opened)
    return Result(
        "replay",
        {**settings, "rounds": len(opened)},
        {
            "bytes": size_bytes,
            "open_s": open_s,
            "mb_per_s": round(size_bytes / open_s / 1e6, 1),
            "per_s": round(settings["messages"] / open_s),
            "cpu_s_per_1000": round(1000 * cpu_s / settings["messages"], 6),
        },
        {"open_s": read_s, "mb_per_s": round(size_bytes / read_s / 1e6, 1)},
        open_s / read_s,
    )


if __name__ == "__main__":
    as_module(__spec__.name)
