"""`gwrelay bench append`: durable appends by many waiting writers, against the bare disk.

Each round has, for each number of writers, a slice of time in which they append to a spool,
and right after it the same commits (the same sizes in the same order) as plain pwrite and
fdatasync into files that were zero-filled and synced before.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
import gevent

from gwrelay_bench.figures import latency, medians
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.scenario import Bench, BenchFailed, as_module, scenario
from gwrelay_bench.spooling import RECORD_BYTES, SEGMENT_BYTES, await_spare, drop, put, running
from spool import Spool
from spool.files import Files

#: Files the baseline writes in turn.
_RAW_FILES = 4


class Commit(NamedTuple):
    """One write and the sync that made it durable."""

    size_bytes: int
    seconds: float


class Slice(NamedTuple):
    """What was written in one stretch of time."""

    records: int
    seconds: float
    cpu_s: float
    commits: Sequence[Commit]
    #: Seconds each record's writer waited.
    waited_s: Sequence[float] = ()


class WatchedFiles(Files):
    """The spool's file layer, which notes its commits."""

    def __init__(self, path: str, sync: Callable[[int], None]) -> None:
        super().__init__(path, sync)
        self.commits: list[Commit] = []
        self._open: dict[int, tuple[float, int]] = {}

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        now = time.perf_counter()
        count = super().write(fd, buffers, offset)
        # Frames are a header and a body each; what fills a spare is one buffer.
        if len(buffers) > 1:
            began, size_bytes = self._open.get(fd, (now, 0))
            self._open[fd] = began, size_bytes + count
        return count

    def sync(self, fd: int) -> None:
        super().sync(fd)
        if fd in self._open:
            began, size_bytes = self._open.pop(fd)
            self.commits.append(Commit(size_bytes, time.perf_counter() - began))


class RawFiles:
    """Where the baseline writes: files like the spool's, filled and synced."""

    def __init__(self, directory: Path) -> None:
        self._content = memoryview(os.urandom(SEGMENT_BYTES))
        self._descriptors = [self._filled(directory / f"raw-{n}") for n in range(_RAW_FILES)]
        self._at = 0

    def write(self, sizes: Sequence[int]) -> list[Commit]:
        """One commit for each of `sizes` (bytes)."""
        commits = []
        for size in sizes:
            began = time.perf_counter()
            fd, offset = self._room(size)
            os.pwrite(fd, self._content[:size], offset)
            os.fdatasync(fd)
            commits.append(Commit(size, time.perf_counter() - began))
        return commits

    def close(self) -> None:
        for fd in self._descriptors:
            os.close(fd)

    def _room(self, size: int) -> tuple[int, int]:
        number, offset = divmod(self._at, SEGMENT_BYTES)
        if offset + size > SEGMENT_BYTES:
            number, offset = number + 1, 0
        number %= _RAW_FILES
        self._at = number * SEGMENT_BYTES + offset + size
        return self._descriptors[number], offset

    def _filled(self, path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.pwrite(fd, bytes(SEGMENT_BYTES), 0)
        os.fsync(fd)
        return fd


@click.command("append")
@click.option(
    "--waiters", default=(1, 16, 64, 256), multiple=True, type=click.IntRange(1, 1000),
    show_default=True, help="Writers at once; may be repeated.",
)  # fmt: skip
@click.option(
    "--seconds", default=0.5, show_default=True, type=click.FloatRange(min=0.01),
    help="Of each slice.",
)  # fmt: skip
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@scenario
def command(bench: Bench, waiters: Sequence[int], seconds: float, rounds: int) -> None:
    """Durable appends of 4 KiB by waiting writers, against raw pwrite and fdatasync."""
    directory = bench.directory / "spool"
    watched: list[WatchedFiles] = []

    def files(path: str, sync: Callable[[int], None]) -> Files:
        watched.append(WatchedFiles(path, sync))
        return watched[-1]

    ours: dict[int, list[Slice]] = {count: [] for count in waiters}
    raws: dict[int, list[Slice]] = {count: [] for count in waiters}
    raw = RawFiles(bench.directory)
    try:
        with (
            running(directory, segment_bytes=SEGMENT_BYTES, files=files) as spool,
            bench.steps("append", rounds * len(waiters)) as advance,
        ):
            for _ in range(rounds):
                for count in waiters:
                    await_spare(directory)
                    done = _append(spool, watched[0], count, seconds)
                    ours[count].append(done)
                    raws[count].append(_repeat(raw, done))
                    advance(1)
    finally:
        raw.close()
    for count in waiters:
        bench.tell(_result(count, seconds, ours[count], raws[count]))


def _append(spool: Spool, files: WatchedFiles, waiters: int, seconds: float) -> Slice:
    """Append for `seconds`, then drop it all, so that the segments are used again."""
    body = os.urandom(RECORD_BYTES)
    keys: list[int] = []
    waited_s: list[float] = []
    files.commits.clear()
    began, used = time.perf_counter(), time.process_time()
    until = began + seconds

    def write() -> None:
        while (before := time.perf_counter()) < until:
            key = spool.new_key()
            spool.write([put(key, body)])
            waited_s.append(time.perf_counter() - before)
            keys.append(key)

    gevent.joinall([gevent.spawn(write) for _ in range(waiters)], raise_error=True)
    took, cpu_s = time.perf_counter() - began, time.process_time() - used
    commits = tuple(files.commits)
    if len(spool) != len(keys):
        raise BenchFailed(f"{len(keys)} records were written, and the spool has {len(spool)}")
    drop(spool, keys)
    return Slice(len(keys), took, cpu_s, commits, waited_s)


def _repeat(raw: RawFiles, done: Slice) -> Slice:
    """The same commits without a spool."""
    began, used = time.perf_counter(), time.process_time()
    commits = raw.write([commit.size_bytes for commit in done.commits])
    took, cpu_s = time.perf_counter() - began, time.process_time() - used
    return Slice(done.records, took, cpu_s, commits)


def _result(waiters: int, seconds: float, ours: list[Slice], raws: list[Slice]) -> Result:
    figures, baseline = _figures(ours), _figures(raws)
    waited_s = [seconds for one in ours for seconds in one.waited_s]
    targets = [
        Target("per_s", at_least=50_000),
        Target("ratio", at_least=0.2),
        Target("records_per_sync", at_least=32),
    ]
    return Result(
        "append",
        {
            "waiters": waiters,
            "record_bytes": RECORD_BYTES,
            "segment_bytes": SEGMENT_BYTES,
            "seconds": seconds,
            "rounds": len(ours),
        },
        {"records": sum(one.records for one in ours), **figures, "write_ms": latency(waited_s)},
        baseline,
        figures["per_s"] / baseline["per_s"],
        targets=targets if waiters == 64 else (),
    )


def _figures(slices: list[Slice]) -> dict[str, Any]:
    """Rates are the median of the rounds, latencies are of all rounds together."""
    rates = [
        {
            "per_s": one.records / one.seconds,
            "records_per_sync": one.records / len(one.commits),
        }
        for one in slices
    ]
    seconds = [commit.seconds for one in slices for commit in one.commits]
    cpu_s = median(one.cpu_s / one.records for one in slices)
    return {
        **medians(rates),
        "cpu_s_per_1000": round(1000 * cpu_s, 4),
        "syncs": len(seconds),
        "commit_ms": latency(seconds),
    }


if __name__ == "__main__":
    as_module(__spec__.name)
