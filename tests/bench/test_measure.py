"""The measuring itself: a stall is seen with its length, and a result is one line."""

import io
import json
import time

import gevent

from gwrelay_bench.measure import Meter, Result, emit, resident_bytes, revision


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
    before = resident_bytes()
    held = bytearray(32 * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    assert resident_bytes() - before > 30 * 1024 * 1024
