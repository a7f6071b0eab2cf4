"""The measuring itself: a stall is seen with its length, and a result is one line."""

import io
import json
import subprocess
import sys
import time

import gevent
import pytest

from gwrelay_bench.measure import Meter, Result, Target, emit, flat, revision


def test_a_stall_is_seen_with_its_length() -> None:
    with Meter() as meter:
        gevent.sleep(0.02)
        time.sleep(0.05)
        gevent.sleep(0.02)
    stalls = meter.stalls()
    assert 45 <= stalls["max"] < 1000
    assert stalls["p50"] < stalls["max"]
    assert stalls["busiest"] < 45, "sleeping uses no CPU"


def test_a_stall_by_our_own_work_is_seen_in_cpu_time_too() -> None:
    with Meter() as meter:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
    assert 45 <= meter.stalls()["busiest"] < 1000


def test_a_loop_that_never_stood_still_has_figures_too() -> None:
    with Meter() as meter:
        pass
    assert set(meter.stalls()) == {"p50", "p99", "max", "busiest"}


def test_a_result_is_one_line_with_revision_cores_and_ratio() -> None:
    out = io.StringIO()
    emit(Result("x", {"n": 5}, {"per_s": 10.0}, {"per_s": 20.0}, 0.5, ok=False), out)
    [line] = out.getvalue().splitlines()
    said = json.loads(line)
    assert (said["bench"], said["settings"], said["figures"]) == ("x", {"n": 5}, {"per_s": 10.0})
    assert (said["baseline"], said["ratio"], said["ok"]) == ({"per_s": 20.0}, 0.5, False)
    assert said["revision"] == revision()
    assert said["cores"] >= 1


def test_memory_that_is_used_is_counted() -> None:
    """In a process of its own: here garbage of other tests may go between the two readings."""
    program = """
from gwrelay_bench.measure import resident_bytes

before = resident_bytes()
held = bytearray(32 * 1024 * 1024)
held[::4096] = b"x" * len(held[::4096])
print(resident_bytes() - before)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert 30 * 1024 * 1024 < int(said.stdout) < 34 * 1024 * 1024


FIGURES = {"per_s": 100.0, "ms": {"p99": 4}, "name": "x", "served": True}
TARGETS = [
    (Target("per_s", at_least=100), True),
    (Target("per_s", at_least=101), False),
    (Target("ms.p99", at_most=4), True),
    (Target("ms.p99", at_most=3.9), False),
    (Target("ms.p99", at_least=1, at_most=3), False),
    (Target("ratio", at_least=0.5), True),
    (Target("ratio", at_most=0.4), False),
    (Target("served", at_least=1), True),
    (Target("name", at_least=0), False),
    (Target("missing", at_most=1), False),
]


@pytest.mark.parametrize(("target", "met"), TARGETS)
def test_a_target_is_met_by_the_figure_it_names_or_by_the_ratio(target: Target, met: bool) -> None:
    assert target.met(Result("x", {}, FIGURES, {}, 0.5)) is met


def test_a_missed_target_is_in_the_line() -> None:
    out = io.StringIO()
    emit(Result("x", {}, FIGURES, targets=[Target("per_s", at_least=101)]), out)
    said = json.loads(out.getvalue())
    assert said["targets"] == [{"figure": "per_s", "at_least": 101, "at_most": None, "met": False}]
    assert said["ok"] is False


def test_figures_within_figures_get_one_name() -> None:
    assert flat({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}
