"""What every bench has in common: how long the loop stood still, and one line for each result.

A result says with what it was measured (revision, cores, settings) and what a baseline made of
the same work in the same run: absolute figures of different machines, or hours, compare badly.
"""

import os
import platform
import subprocess
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from functools import cache
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
        # Eight bytes a tick: the meter must not be what fills the memory it is beside.
        self._late_s = array("d")
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


class Target(NamedTuple):
    """What a figure should reach: told to the reader, and no reason to fail."""

    #: The figure's name; of one within another "outer.inner"; or "ratio".
    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, result: "Result") -> bool:
        """False as well when there is no such figure."""
        value = result.ratio if self.figure == "ratio" else flat(result.figures).get(self.figure)
        if not isinstance(value, (int, float)):
            return False
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


class Result(NamedTuple):
    """One workload, measured.  Units are in the names: per_s, ms, bytes, ratio."""

    bench: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Any]
    #: What the same run measured of something without our features, by the same names.
    baseline: Mapping[str, Any] = {}
    #: Figures over baseline, where that says something; and whether all is as it should be.
    ratio: float | None = None
    ok: bool = True
    targets: Sequence[Target] = ()


def emit(result: Result, out: TextIO | None = None) -> None:
    """Print `result` as one line of JSON, with the revision and the machine it is of."""
    line = {
        "bench": result.bench,
        **system(),
        "settings": dict(result.settings),
        "figures": dict(result.figures),
        "baseline": dict(result.baseline),
        "ratio": None if result.ratio is None else round(result.ratio, 3),
        "targets": [{**target._asdict(), "met": target.met(result)} for target in result.targets],
        "ok": result.ok and all(target.met(result) for target in result.targets),
    }
    print(dumps(line), file=out or sys.stdout, flush=True)


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Figures within figures by one name: {"ms": {"p99": 1}} → {"ms.p99": 1}."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def system() -> dict[str, Any]:
    """What ran, and on what."""
    return {
        "revision": revision(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
    }


@cache
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
