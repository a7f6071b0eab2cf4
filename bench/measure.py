"""What every bench has in common: how long the loop stood still, and one line for each result.

A result says with what it was measured (revision, cores, settings) and what a baseline made of
the same work in the same run: absolute figures of different machines, or hours, compare badly.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from json import dumps
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

import gevent

from gwrelay import __version__
from gwrelay_bench.figures import latency

#: Seconds between two ticks of a Meter: much less than any stall that matters.
_TICK_S = 0.001


class Meter:
    """Stalls of the event loop while it is open: how much too late a short sleep ends.

    with Meter() as meter:
        ...
    meter.stalls()

    Sees whatever keeps greenlets waiting, be it ours, the collector's, a blocking call or another
    process on the same core.  CPU time, which only we can have used, tells the last one apart.
    """

    def __init__(self, every_s: float = _TICK_S) -> None:
        self._every_s = every_s
        self._late_s: list[float] = []
        self._busy_s = 0.0
        self._ticking: gevent.Greenlet | None = None

    def __enter__(self) -> Self:
        self._ticking = gevent.spawn(self._tick)
        gevent.sleep(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Once more round the loop: a stall that only just ended is to be seen as well.
        gevent.sleep(2 * self._every_s)
        if self._ticking is not None:
            self._ticking.kill()

    def stalls(self) -> dict[str, float]:
        """p50, p99 and the longest stall in milliseconds, and the most CPU time (likewise) that
        this process used between two ticks."""
        found = latency(self._late_s) or {"p50": 0.0, "p99": 0.0, "max": 0.0}
        return {**found, "busiest": round(self._busy_s * 1000, 2)}

    def _tick(self) -> None:
        before, used = time.perf_counter(), time.thread_time()
        while True:
            gevent.sleep(self._every_s)
            now, busy = time.perf_counter(), time.thread_time()
            self._late_s.append(max(0.0, now - before - self._every_s))
            self._busy_s = max(self._busy_s, busy - used)
            before, used = now, busy


class Result(NamedTuple):
    """One workload, measured.  Units are in the names: per_s, ms, bytes, ratio."""

    bench: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Any]
    #: What the same run measured of something without our features, by the same names.
    baseline: Mapping[str, Any] = {}
    #: Figures over baseline, where that says something; and whether every target was met.
    ratio: float | None = None
    ok: bool = True


def emit(result: Result, out: TextIO | None = None) -> None:
    """Print `result` as one line of JSON, with the revision and the machine it is of."""
    line = {
        "bench": result.bench,
        "revision": revision(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "settings": dict(result.settings),
        "figures": dict(result.figures),
        "baseline": dict(result.baseline),
        "ratio": None if result.ratio is None else round(result.ratio, 3),
        "ok": result.ok,
    }
    print(dumps(line), file=out or sys.stdout, flush=True)


def revision() -> str:
    """The commit this file is of, with + when the checkout differs from it; installed without
    one, the version."""
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    return said.stdout.strip() or __version__


def resident_bytes() -> int:
    """Memory of this process that is in RAM just now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
